"""Which sign-ins still hold of those that have a stream open: one question for all of them, every other second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from sqlalchemy.orm import Session

from backend.core import people
from backend.core.people import Identity

FRESH_SECONDS = 2.0
"""For so long an answer stands; who has not asked for three times as long is gone."""


class Standing:
    """`read` runs its argument on the database."""

    def __init__(self, read: Callable[[Callable[[Session], set[str]]], Awaitable[set[str]]]) -> None:
        self.read = read
        self.one_question = asyncio.Lock()
        self.asked: dict[str, float] = {}
        self.answers: dict[str, bool] = {}
        self.answered_at = -FRESH_SECONDS

    async def holds(self, who: Identity) -> bool:
        """Raises what the database raises while it is away."""
        self.asked[who.credential] = time.monotonic()
        async with self.one_question:  # whoever comes meanwhile takes the answer of the first
            self.asked[who.credential] = time.monotonic()  # a wait for a database that is away may have been long
            is_old = time.monotonic() - self.answered_at >= FRESH_SECONDS
            if is_old or who.credential not in self.answers:
                await self._ask()
        return self.answers[who.credential]

    async def _ask(self) -> None:
        now = time.monotonic()
        self.asked = {one: at for one, at in self.asked.items() if now - at < 3 * FRESH_SECONDS}
        wanted = set(self.asked)
        holding = await self.read(partial(people.holding, credentials=wanted))
        self.answers, self.answered_at = {one: one in holding for one in wanted}, now
