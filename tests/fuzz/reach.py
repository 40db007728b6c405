"""How far a round over the API got: which operations it asked, which of them succeeded, and what ended it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class End(StrEnum):
    """What ended a round."""

    ITSELF = "by itself"
    BOUND = "at its bound of requests"
    CLOCK = "cut by the clock"
    """Its phase was not tried to the end."""


@dataclass(frozen=True)
class Reach:
    """Operations by their labels, `GET /api/v1/runs`. A request with a method that the description lacks asks none of them."""

    described: frozenset[str] = frozenset()
    """All that there are."""
    asked: frozenset[str] = frozenset()
    succeeded: frozenset[str] = frozenset()
    """With an answer of 200 to 299, at least once."""

    @property
    def refused(self) -> list[str]:
        """All that never succeeded."""
        return sorted(self.described - self.succeeded)

    def __str__(self) -> str:
        return f"{len(self.asked)} of {len(self.described)} operations asked, {len(self.succeeded)} succeeded"

    @classmethod
    def of_all(cls, several: Iterable[Reach]) -> Reach:
        """What rounds reached together."""
        some = list(several)
        return cls(
            frozenset[str]().union(*(each.described for each in some)),
            frozenset[str]().union(*(each.asked for each in some)),
            frozenset[str]().union(*(each.succeeded for each in some)),
        )
