"""Whether Postgres and Redis answer: asked every second, so that no request waits for one that is away.

A server that is stopped refuses at once, but one that stands still keeps every connection and says nothing. Its patience is
counted in our own looks and not in seconds: a loop that stood still itself has not watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from backend.core.errors import Unavailable

if TYPE_CHECKING:
    import redis.asyncio

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_SECONDS = 1.0
PATIENCE_LOOKS = 12
"""A machine that is very busy takes seconds to answer, and is not away."""
ANSWER_SECONDS = 5
DATABASE, QUEUE = "database", "queue"


@dataclass
class Vital:
    """One service. `ask` returns when it answered, and raises when it refused."""

    name: str
    ask: Callable[[], Awaitable[object]]
    asking: asyncio.Future[object] | None = None
    has_failed: bool = False
    looks: int = 0

    @property
    def is_away(self) -> bool:
        return self.has_failed or self.looks >= PATIENCE_LOOKS

    def look(self) -> None:
        """Ask, where the last question has been answered; what comes of it is heard when it comes."""
        if self.asking and not self.asking.done():
            self.looks += 1
            return
        self.asking = asyncio.ensure_future(self.ask())
        self.asking.add_done_callback(self._hear)

    def _hear(self, asked: asyncio.Future[object]) -> None:
        if not asked.cancelled():
            self.has_failed, self.looks = asked.exception() is not None, 0


@dataclass
class Pulse:
    """The services of one web process. `changed` is called whenever what is away has changed."""

    database: Vital
    queue: Vital
    changed: Callable[[], None]
    _told: tuple[str, ...] = field(default=())
    _abandoned: set[asyncio.Task[Any]] = field(default_factory=set)

    def away(self) -> tuple[str, ...]:
        """The names of the parts that do not answer."""
        return tuple(vital.name for vital in (self.database, self.queue) if vital.is_away)

    async def run(self) -> None:
        """Look, for ever; first a moment after the start, which waits for neither service's client to load."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for vital in (self.database, self.queue):
                vital.look()
            if (away := self.away()) != self._told:
                log.warning("away: %s", ", ".join(away) or "nothing any more")
                self._told = away
                self.changed()

    async def settle(self) -> None:
        """Hear the questions out that are still open, for one look more: whoever gives a connection up while it is made
        leaves Postgres with a stranger for a minute, and no database is dropped meanwhile."""
        asked = [vital.asking for vital in (self.database, self.queue) if vital.asking]
        if asked:
            await asyncio.wait(asked, timeout=LOOK_SECONDS)

    async def answered(self, asking: Coroutine[Any, Any, T]) -> T:
        """What Postgres answers. Raises `Unavailable` where it is away, or goes away before it has answered."""
        if self.database.is_away:
            asking.close()
            raise no_database()
        task = asyncio.ensure_future(asking)
        try:
            while not (await asyncio.wait({task}, timeout=LOOK_SECONDS))[0]:
                if self.database.is_away:
                    self._abandon(task)
                    raise no_database()
        except asyncio.CancelledError:
            task.cancel()
            raise
        return task.result()

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        """It ends when Postgres goes on, or when the connection breaks; then what it began is taken back."""
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()


def no_database() -> Unavailable:
    return Unavailable("The database cannot be reached now.", hint="Try again in a moment.")


def asks_database(engine: AsyncEngine) -> Callable[[], Awaitable[object]]:
    """Asks through an engine of its own: the pool of the requests may be used up by those that wait."""
    at_once = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def ask() -> None:
        async with at_once.connect() as connection:
            await connection.exec_driver_sql("SELECT 1")

    return ask


def asks_queue(redis_url: str) -> Callable[[], Awaitable[object]]:
    """Asks Redis or Valkey over a connection that is kept."""
    kept: list[redis.asyncio.Redis] = []

    async def ask() -> None:
        if not kept:
            from redis.asyncio import Redis

            kept.append(Redis.from_url(redis_url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS))
        await kept[0].ping()

    return ask
