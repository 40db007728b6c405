"""How a claimant judges leases: by its own stopwatch alone, and only over an unbroken connection to Postgres."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from backend.core.runs import Lease


class LeaseWatch:
    """Remembers since when each lease was seen unchanged. It reads no clock: the caller passes monotonic seconds.

    After an outage of Postgres everyone's watch starts anew (`forget`), so a healthy holder is never robbed, and a
    clock that jumps does nothing. Who did not look for half a lease has not watched either: claimant, holder and Postgres
    may all have stood still together, with no connection broken.
    """

    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self._since: dict[tuple[UUID, int, datetime], float] = {}
        self._looked = 0.0

    def observe(self, now: float, leases: Iterable[Lease]) -> Sequence[Lease]:
        """The leases that stayed unchanged for one whole lease, up to and including this look."""
        if now - self._looked > self.lease_seconds / 2:
            self.forget()
        self._looked = now
        seen = {(each.run_id, each.attempt, each.until): each for each in leases}
        self._since = {key: self._since.get(key, now) for key in seen}
        return [each for key, each in seen.items() if now - self._since[key] >= self.lease_seconds]

    def forget(self) -> None:
        """The connection broke: nothing that was seen before counts."""
        self._since.clear()
