"""What every page has: who asks for what, and what was just done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from backend.web.shapes.people import PersonOut


@dataclass(frozen=True)
class Here:
    """What every page knows of the request."""

    path: str
    """The address, without the query: `/runs`."""
    nonce: str
    """For the one `<script nonce>` of the layout."""
    language: str
    """`en` or `zh`."""
    person: PersonOut | None
    """Null on the pages of people who are not signed in."""
    csrf_token: str
    """A hidden field `csrf_token` of each form, and the header `X-CSRF-Token` of scripts; empty when nobody is signed in."""
    on_plain_http: bool
    """Reached over a network without HTTPS: the layout shows what that means."""
    other_language: str
    """This page in the other language: a query alone, so that no path, `//elsewhere` say, makes it another site."""

    @property
    def may_write(self) -> bool:
        return self.person is not None and self.person.role != "viewer"

    @property
    def is_admin(self) -> bool:
        return self.person is not None and self.person.role == "admin"

    def may_change(self, owner: str | None) -> bool:
        """Members change what is their own, administrators everything. What else is refused is not offered."""
        return self.is_admin or (self.person is not None and self.may_write and owner == self.person.name)


@dataclass(frozen=True)
class Page:
    """The base of all pages."""

    template: ClassVar[str]
    status: ClassVar[int] = 200


@dataclass(frozen=True)
class Did:
    """What was done to runs just now: told, with a way back, on the page that the act led back to."""

    act: str
    """`pause`, `resume`, `stop`, `discard` or `restore`."""
    runs: list[str]
    refused: int = 0
    """How many could not be."""
