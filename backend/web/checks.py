"""Examinations of recipes: each is run once for what it depends on, in the background, and remembered.

A person types faster than rows are read. So an examination that nobody waits for any more is cancelled: each person has
one at a time, and a newer one takes its place, unless others wait for the same one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from backend.core import launch
from backend.core.errors import StudioError
from backend.core.launch import Pinned
from backend.core.models import Json
from backend.core.settings import Settings
from backend.web.failures import in_words

REMEMBERED = 200
AT_ONCE = 2
"""Limited processes that read rows at the same time: each takes a core and up to 4 GiB."""


@dataclass(eq=False)
class Check:
    """One examination. `rows` of `of` are read; then `answer` stands, or `failure` says why there is none."""

    watchers: set[UUID] = field(default_factory=set)
    """People whose form it was asked from."""
    waiting: int = 0
    """Launches that cannot go on without it."""
    rows: int = 0
    of: int = 0
    answer: Json | None = None
    failure: StudioError | None = None
    is_stopped: bool = False
    """The process is ending."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_wanted(self) -> bool:
        return bool(self.watchers or self.waiting) and not self.is_stopped

    def progress(self, told: Json) -> None:
        self.rows, self.of = told["rows"], told["of"]


class Checks:
    """All examinations of one web process, by `launch.examination`."""

    def __init__(self, settings: Settings, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._settings, self._spawn = settings, spawn
        self._known: OrderedDict[str, Check] = OrderedDict()
        self._free = asyncio.Semaphore(AT_ONCE)

    def known(self, pinned: Pinned) -> Check | None:
        """What is known by now, without asking for it."""
        return self._known.get(launch.examination(pinned))

    def watch(self, pinned: Pinned, person: UUID) -> Check:
        """The examination of this recipe, begun where it was not yet. What this person watched before is let go."""
        check = self._begun(pinned)
        for other in self._known.values():
            other.watchers.discard(person)
        check.watchers.add(person)
        return check

    async def answer(self, pinned: Pinned) -> Json:
        """The answer, however long it takes. Raises `StudioError` where the rows could not be read."""
        while True:
            check = self._begun(pinned)
            check.waiting += 1
            try:
                await check.over.wait()
            finally:
                check.waiting -= 1
            if check.answer is not None:
                return check.answer
            assert check.failure
            if check.failure.code != "cancelled":  # it was let go in the moment in which we came
                raise check.failure

    def _begun(self, pinned: Pinned) -> Check:
        word = launch.examination(pinned)
        if word not in self._known:
            self._known[word] = Check()
            self._spawn(self._run(word, pinned, self._known[word]))
        self._known.move_to_end(word)
        return self._known[word]

    async def _run(self, word: str, pinned: Pinned, check: Check) -> None:
        try:
            async with self._free:
                check.answer = await asyncio.to_thread(
                    launch.examine,
                    pinned,
                    self._settings,
                    on_progress=check.progress,
                    cancelled=lambda: not check.is_wanted,
                )
        except Exception as error:
            check.failure = in_words(error, "reading the rows of a recipe")
        except asyncio.CancelledError:
            check.is_stopped = True
            raise
        finally:
            self._forget(word, check)
            check.over.set()

    def _forget(self, word: str, check: Check) -> None:
        """What has no answer is tried again the next time; of the others the oldest go."""
        if check.answer is None:
            del self._known[word]
        done = [each for each, other in self._known.items() if other.answer is not None]
        for each in done[: max(0, len(done) - REMEMBERED)]:
            del self._known[each]
