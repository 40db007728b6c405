"""Pages of people who are not signed in, and pages that say what went wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.web.contexts.page import Page
from backend.web.shapes.common import ProblemOut


@dataclass(frozen=True)
class SignInPage(Page):
    """POST /signin with `name`, `password`, `next`."""

    template = "signin.html"
    name: str = ""
    next: str = "/"
    error: ProblemOut | None = None


@dataclass(frozen=True)
class SetupPage(Page):
    """POST /setup with `token`, `name`, `password`, `again`: makes the first administrator and signs in."""

    template = "setup.html"
    token: str
    name: str = ""
    error: ProblemOut | None = None


@dataclass(frozen=True)
class ErrorPage(Page):
    template = "error.html"
    number: int
    """The HTTP status."""
    error: ProblemOut
    problems: list[ProblemOut] = field(default_factory=list)
    incident: str = ""


@dataclass(frozen=True)
class InvitationPage(Page):
    """POST /invitation with `token`, `password`, `again`: sets the password and signs in."""

    template = "invitation.html"
    token: str
    name: str
    """Whom the link is for."""
    error: ProblemOut | None = None
