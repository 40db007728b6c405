"""What every part of a worker host shares: settings, database, patience, spare trainers, threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy.orm import Session, sessionmaker

from backend.core import queue
from backend.core.events import take_rings
from backend.core.runs import Limits
from backend.core.settings import Settings
from worker.spares import Spares


@dataclass
class Host:
    settings: Settings
    sessions: sessionmaker[Session]
    redis_url: str
    name: str
    place: str
    spares: Spares
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, thread_name_prefix="host"))

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
        queue.ring(self.redis_url, rings)
