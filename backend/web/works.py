"""What takes longer than a person waits for a page: begun once, told how far it is, and asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from backend.core.errors import StudioError
from backend.core.models import Json


@dataclass
class Work:
    """Something that is done beside the requests. `failure` says why there is no result."""

    done: int = 0
    of: int = 0
    failure: StudioError | None = None
    is_stopped: bool = False
    """The process is ending: what works in a thread should give up."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def has_stopped(self) -> bool:
        return self.is_stopped

    def progress(self, told: Json) -> None:
        self.done, self.of = told["done"], told["of"]


class Works:
    """What is being done for the pages of data sets, by what it is of. A failure is forgotten once it was told."""

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._spawn = spawn
        self.running: dict[Any, Work] = {}

    async def soon(self, key: Any, work: Callable[[Work], Any], seconds: float | None) -> Work | None:
        """Begin what is not being done yet; None where it is over within `seconds` (None: whenever that is)."""
        standing = self.running.get(key)
        if standing is None:
            standing = self.running[key] = Work()
            self._spawn(self._carry_out(standing, work))
        try:
            await asyncio.wait_for(standing.over.wait(), seconds)
        except TimeoutError:
            return standing
        self.running.pop(key, None)
        return standing if standing.failure else None

    async def _carry_out(self, standing: Work, work: Callable[[Work], Any]) -> None:
        try:
            await asyncio.to_thread(work, standing)
        except StudioError as failure:
            standing.failure = failure
        except asyncio.CancelledError:
            standing.is_stopped = True
            raise
        finally:
            standing.over.set()
