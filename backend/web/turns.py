"""Turns: of what takes much of the machine, a few go on at once, and no person takes them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from backend.core.errors import TooMany

MOST_WAITING = 30
RETRY_SECONDS = 5


@dataclass
class Own:
    """One person's turns: those that go on, and those that wait."""

    free: asyncio.Semaphore
    asked: int = 0


class Turns:
    """At most `at_once` in all and `each` for one person. Whoever comes later waits, and waiting costs nothing."""

    def __init__(self, at_once: int, each: int) -> None:
        self._free, self._each = asyncio.Semaphore(at_once), each
        self._own: dict[UUID, Own] = {}

    @asynccontextmanager
    async def of(self, person: UUID) -> AsyncIterator[None]:
        """One turn. Raises `TooMany` where that person waits for very many already."""
        own = self._own.setdefault(person, Own(asyncio.Semaphore(self._each)))
        if own.asked >= MOST_WAITING:
            raise TooMany(
                "You have asked for very much at once.",
                hint="Wait until some of it is done, then try again.",
                retry_after_seconds=RETRY_SECONDS,
            )
        own.asked += 1
        try:
            async with own.free, self._free:
                yield
        finally:
            own.asked -= 1
            if not own.asked:
                self._own.pop(person, None)
