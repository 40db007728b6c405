"""Time in which somebody looked on."""

from __future__ import annotations

import time

GAP_SECONDS = 5.0
"""Between two looks. Whoever looks many times a second was itself kept from it for longer than that."""


class Awake:
    """A clock that stands while its owner does. What freezes a whole host, as a paused container, freezes a watcher together
    with what it watches: neither may be blamed for what did not happen meanwhile."""

    def __init__(self) -> None:
        self._looked, self._seconds = time.monotonic(), 0.0

    def look(self) -> float:
        """Seconds since it was made in which its owner looked on."""
        now = time.monotonic()
        self._seconds += min(now - self._looked, GAP_SECONDS)
        self._looked = now
        return self._seconds
