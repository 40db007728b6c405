"""What takes longer than a person waits for a page: begun once, told how far it is, and asked for again.

It goes on when the page is left, since what comes of it is kept. So a few go on at once, fewer of them one person's, and
the others wait for their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from backend.core.errors import StudioError
from backend.core.models import Json
from backend.web.failures import in_words
from backend.web.turns import Turns

AT_ONCE, EACH = 3, 2
"""Limited processes that go through a whole data set: each takes a core and more than a GiB."""
FAILURES_KEPT = 100


@dataclass(eq=False)
class Work:
    """Something that is done beside the requests. `failure` says why there is no result."""

    done: int = 0
    of: int = 0
    failure: StudioError | None = None
    is_stopped: bool = False
    """The process is ending: what works in a thread should give up."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def progress(self, told: Json) -> None:
        self.done, self.of = told["done"], told["of"]


class Works:
    """What is being done for the pages of data sets, by what it is of. A failure is forgotten once it was told."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._spawn, self._turns = spawn, Turns(AT_ONCE, EACH)
        self.running: dict[Any, Work] = {}

    async def soon(self, key: Any, work: Callable[[Work], Any], seconds: float | None, person: UUID) -> Work | None:
        """Begin what is not being done yet, in that person's turn; None where it is over within `seconds` (None: whenever
        that is)."""
        standing = self.running.get(key)
        if standing is None:
            standing = self.running[key] = Work()
            self._spawn(self._carry_out(key, standing, work, person))
        try:
            await asyncio.wait_for(standing.over.wait(), seconds)
        except TimeoutError:
            return standing
        self._forget(key, standing)
        return standing if standing.failure else None

    async def _carry_out(self, key: Any, standing: Work, work: Callable[[Work], Any], person: UUID) -> None:
        try:
            async with self._turns.of(person):
                await asyncio.to_thread(work, standing)
        except Exception as error:
            standing.failure = in_words(error, "reading a whole data set")
        except asyncio.CancelledError:
            standing.is_stopped = True
            raise
        finally:
            standing.over.set()
            if standing.failure is None:
                self._forget(key, standing)
            self._forget_old_failures()

    def _forget(self, key: Any, standing: Work) -> None:
        if self.running.get(key) is standing:
            del self.running[key]

    def _forget_old_failures(self) -> None:
        """Those that nobody came back for."""
        over = [key for key, each in self.running.items() if each.over.is_set()]
        for key in over[: max(0, len(over) - FAILURES_KEPT)]:
            del self.running[key]
