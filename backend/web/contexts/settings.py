"""The sections of settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from backend.web.contexts.page import Page
from backend.web.shapes.common import ProblemOut
from backend.web.shapes.people import AuditOut, InvitationOut, MemberOut, NewTokenOut, SessionOut, TokenOut
from backend.web.shapes.studio import StorageOut, WasteOut, WorkerOut


@dataclass(frozen=True, kw_only=True)
class SettingsPage(Page):
    """A section of the settings; `parts/settings.html` draws what they share."""

    section: ClassVar[str]
    version: str
    started_at: datetime
    """Since when this web process runs."""
    done: str = ""
    """What was just done, for a word beside the title."""
    error: ProblemOut | None = None


@dataclass(frozen=True, kw_only=True)
class YouPage(SettingsPage):
    """POST /settings/password (`old`, `new`, `again`, `revoke`), /settings/language (`language`), /signout."""

    template, section = "settings-you.html", "you"
    tokens: int
    """How many of one's API tokens hold."""


@dataclass(frozen=True, kw_only=True)
class PeoplePage(SettingsPage):
    """For administrators. POST /settings/people (`name`, `role`, `password`: without one the person is invited);
    POST /settings/people/{name} (`role`, `password`, or `act` = disable | enable | remove | invite | end_sessions)."""

    template, section = "settings-people.html", "people"
    people: list[MemberOut]
    invitation: InvitationOut | None = None
    """A link just made: shown this once."""
    invited: str = ""
    """Whom it is for."""


@dataclass(frozen=True, kw_only=True)
class TokensPage(SettingsPage):
    """POST /settings/tokens (`name`, `role`, `days`), /settings/tokens/{id}/revoke."""

    template, section = "settings-tokens.html", "tokens"
    tokens: list[TokenOut]
    """One's own; everybody's for an administrator."""
    next_offset: int | None
    roles: list[str]
    """The roles that one's own may be given."""
    new_token: NewTokenOut | None = None
    """A token just made: its secret is shown this once."""


@dataclass(frozen=True, kw_only=True)
class SessionsPage(SettingsPage):
    """POST /settings/sessions/{id}/end, /settings/sessions/end (all but this one)."""

    template, section = "settings-sessions.html", "sessions"
    sessions: list[SessionOut]


@dataclass(frozen=True, kw_only=True)
class WorkersPage(SettingsPage):
    """POST /settings/workers/{name} (`act` = drain | release), for administrators."""

    template, section = "settings-workers.html", "workers"
    workers: list[WorkerOut]


@dataclass(frozen=True, kw_only=True)
class StoragePage(SettingsPage):
    """POST /settings/storage/clean-up, for administrators. While it is first measured, the page asks again by itself."""

    template, section = "settings-storage.html", "storage"
    storage: StorageOut
    home: str
    """The folder, for administrators."""
    freed: WasteOut | None = None
    """What a clean-up just freed."""


@dataclass(frozen=True, kw_only=True)
class AuditPage(SettingsPage):
    """GET /settings/audit?person=&action=&before=, for administrators."""

    template, section = "settings-audit.html", "audit"
    entries: list[AuditOut]
    people: list[str]
    actions: list[str]
    person: str
    action: str
    next: str | None
