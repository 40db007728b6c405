"""Addresses of pages, for links that change one thing and keep the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode


@dataclass(frozen=True)
class Address:
    """`Address("/runs", (("state", "failed"), ("q", "owl")))`. Empty values are left out."""

    path: str
    query: Sequence[tuple[str, str]] = ()

    def to(self, **changes: str) -> str:
        """The same place with these values instead of those, from its first page on."""
        pairs = dict(self.query) | {"before": ""} | changes
        written = urlencode([(name, value) for name, value in pairs.items() if value])
        return f"{self.path}?{written}" if written else self.path
