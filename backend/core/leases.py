"""How a claimant judges leases: by its own stopwatch alone, and only over an unbroken connection to Postgres."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

Sign = TypeVar("Sign", bound=Hashable)
"""A `runs.Lease`, or whatever else its holder changes for as long as it lives."""


class LeaseWatch(Generic[Sign]):
    """Remembers since when each lease was seen unchanged. It reads no clock: the caller passes monotonic seconds.

    After an outage of Postgres everyone's watch starts anew (`forget`), so a healthy holder is never robbed, and a
    clock that jumps does nothing. Who did not look for half a lease has not watched either: claimant, holder and Postgres
    may all have stood still together, with no connection broken.
    """

    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self._since: dict[Sign, float] = {}
        self._looked = 0.0

    def observe(self, now: float, leases: Iterable[Sign]) -> Sequence[Sign]:
        """The leases that stayed unchanged for one whole lease, up to and including this look."""
        if now - self._looked > self.lease_seconds / 2:
            self.forget()
        self._looked = now
        self._since = {each: self._since.get(each, now) for each in leases}
        return [each for each, since in self._since.items() if now - since >= self.lease_seconds]

    def forget(self) -> None:
        """The connection broke: nothing that was seen before counts."""
        self._since.clear()
