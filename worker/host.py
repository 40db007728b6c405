"""What every part of a worker host shares: settings, database, patience, spare trainers, threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import TypeGuard, TypeVar
from uuid import UUID

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from backend.core import queue
from backend.core.events import take_rings
from backend.core.runs import Limits
from backend.core.settings import Settings
from worker.spares import Spares

log = logging.getLogger(__name__)
T = TypeVar("T")


def beside(work: Callable[[], T]) -> Future[T]:
    """Do work beside the main thread, in a thread of its own.

    A download or a disk that hangs holds up neither the work of others, as in a pool of few, nor the end of this
    process, which waits for a pool's threads.
    """
    future: Future[T] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=do, name="beside", daemon=True).start()
    return future


class Chores:
    """What may take long or hang is done beside the main thread, whose turns renew the leases.

    One of a name at a time: what comes up while it is busy is left to its next start.
    """

    def __init__(self) -> None:
        self._threads: dict[str, Thread] = {}

    def start(self, name: str, work: Callable[[], object]) -> None:
        busy = self._threads.get(name)
        if busy is None or not busy.is_alive():
            thread = self._threads[name] = Thread(target=self._do, args=(name, work), name=name, daemon=True)
            thread.start()

    def _do(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            log.exception("%s went wrong", name)


@dataclass
class Host:
    settings: Settings
    sessions: sessionmaker[Session]
    redis_url: str
    name: str
    place: str
    spares: Spares
    chores: Chores = field(default_factory=Chores)
    _news: set[UUID] = field(default_factory=set)

    @property
    def limits(self) -> Limits:
        return Limits(self.settings.crash_limit, self.settings.attempt_limit)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction; followers of what it told are rung after its commit."""
        with self.sessions.begin() as session:
            yield session
            session.flush()
            rings = take_rings(session)
        self._news.update(rings)
        if self._news:  # those too that came when the last ringing was just over
            self.chores.start("ringing", self._ring)

    def _ring(self) -> None:
        while self._news:
            queue.ring(self.redis_url, [self._news.pop()])


def is_outage(error: Exception) -> TypeGuard[DBAPIError]:
    """Whether Postgres is in trouble. What it refuses to store is the trouble of the run that wanted it stored."""
    return isinstance(error, DBAPIError) and not isinstance(error, DataError | IntegrityError)
