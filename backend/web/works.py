"""What takes longer than a person waits for a page: begun once, told how far it is, and asked for again.

A few go on at once, and each person may have a few under way: a newer one takes the place of the oldest, unless somebody
else waits for that one too. What comes of it is kept elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from backend.core.errors import Conflict, StudioError
from backend.core.models import Json

AT_ONCE = 2
"""Limited processes that go through a whole data set: each takes a core and more than a GiB."""
A_PERSON = 4
"""Two pages' worth: the lengths of the rows and what may be wrong with them."""
FAILURES_KEPT = 100


@dataclass(eq=False)
class Work:
    """Something that is done beside the requests. `failure` says why there is no result."""

    done: int = 0
    of: int = 0
    failure: StudioError | None = None
    is_stopped: bool = False
    """Nobody waits for it any more, or the process is ending: what works in a thread should give up."""
    watchers: set[UUID] = field(default_factory=set)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def progress(self, told: Json) -> None:
        self.done, self.of = told["done"], told["of"]


class Works:
    """What is being done for the pages of data sets, by what it is of. A failure is forgotten once it was told."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._spawn = spawn
        self._free = asyncio.Semaphore(AT_ONCE)
        self.running: dict[Any, Work] = {}

    async def soon(self, key: Any, work: Callable[[Work], Any], seconds: float | None, person: UUID) -> Work | None:
        """Begin what is not being done yet; None where it is over within `seconds` (None: whenever that is)."""
        standing = self.running.get(key)
        if standing is None or standing.is_stopped:
            standing = self.running[key] = Work()
            self._spawn(self._carry_out(key, standing, work))
        standing.watchers.add(person)
        self._let_go(person, standing)
        try:
            await asyncio.wait_for(standing.over.wait(), seconds)
        except TimeoutError:
            return standing
        self._forget(key, standing)
        return standing if standing.failure else None

    def _let_go(self, person: UUID, newest: Work) -> None:
        """Stop the oldest that this person asked for, where there are too many and nobody else waits."""
        own = [each for each in self.running.values() if person in each.watchers and not each.over.is_set()]
        for each in [each for each in own if each is not newest][: max(0, len(own) - A_PERSON)]:
            each.watchers.discard(person)
            each.is_stopped = not each.watchers

    async def _carry_out(self, key: Any, standing: Work, work: Callable[[Work], Any]) -> None:
        try:
            async with self._free:
                if standing.is_stopped:
                    raise Conflict("It was cancelled.", code="cancelled")
                await asyncio.to_thread(work, standing)
        except StudioError as failure:
            standing.failure = failure
        except asyncio.CancelledError:
            standing.is_stopped = True
            raise
        finally:
            standing.over.set()
            if standing.failure is None or standing.is_stopped:
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
