"""People, their browsers, their programs' tokens, and what was done by whom."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from backend.web.shapes.common import Json, Out

RoleName = Literal["viewer", "member", "admin"]


class PersonOut(Out):
    id: UUID
    name: str = Field(examples=["ada"])
    role: RoleName
    language: str | None = None
    created_at: datetime
    disabled_at: datetime | None = Field(None, description="Since when this person cannot sign in.")


class MemberOut(PersonOut):
    """A person as administrators see them."""

    seen_at: datetime | None = Field(None, description="Their last request, to the minute.")
    invited_until: datetime | None = Field(None, description="An open link to set a password holds until then.")
    is_program: bool = Field(False, description="The account of commands on the studio's own machine.")
    is_last_admin: bool = Field(False, description="Nobody else could let people in, so it cannot be taken away.")
    runs: int = Field(0, description="Runs that they started.")
    device_hours: float = Field(0.0, description="Hours that their runs held accelerators this month, in UTC.")
    sessions: int = Field(0, description="Browsers in which they are signed in.")
    tokens: int = Field(0, description="API tokens of theirs that hold.")


class InvitationOut(Out):
    """A link by which a person sets their password, once."""

    link: str = Field(examples=["/invitation?token=…"], description="Path and query. It cannot be shown again.")
    expires_at: datetime


class NewMemberOut(PersonOut):
    invitation: InvitationOut | None = Field(None, description="Where no password was given.")


class SessionOut(Out):
    """A browser that is signed in."""

    id: str
    browser: str = Field(examples=["Firefox 142"])
    system: str = Field(examples=["Linux"])
    user_agent: str
    is_this: bool = Field(description="The one that asks.")
    created_at: datetime
    seen_at: datetime | None = None
    expires_at: datetime


class AuditOut(Out):
    """Something that was done. `person` is null where the studio did it by itself."""

    id: UUID
    at: datetime
    person: str | None = Field(None, examples=["ada"], description="Their name at the time.")
    address: str | None = Field(None, examples=["192.0.2.7"], description="From where it was asked for.")
    action: str = Field(examples=["token.create"])
    subject: str = Field(examples=["ada: ci"])
    data: Json = Field(description="What else belongs to it. `via` is the name of the token that asked, where one did.")


class TokenOut(Out):
    """An API token. The secret itself is shown once, when it is made."""

    id: UUID
    name: str = Field(examples=["ci"])
    owner: str = Field(examples=["ada"])
    role: RoleName
    prefix: str = Field(examples=["fts_Xk3v"])
    created_at: datetime
    expires_at: datetime | None = None
    used_at: datetime | None = None
    revoked_at: datetime | None = None


class NewTokenOut(TokenOut):
    token: str = Field(description="The secret. It is not stored and cannot be shown again.")
