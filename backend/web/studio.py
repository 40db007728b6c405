"""What one web process holds for its whole life: connections, feeds, pages, and the door."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from backend.core import db, people, queue
from backend.core.datasets import store
from backend.core.errors import Unavailable
from backend.core.events import take_rings
from backend.core.limited import spare_kept
from backend.core.operations import Operations
from backend.core.people import Identity
from backend.core.settings import Settings
from backend.web import failures, repeats
from backend.web.administration import Gauge
from backend.web.checks import Checks
from backend.web.lasting import until_done
from backend.web.pulse import DATABASE, QUEUE, Pulse, Vital, asks_database, asks_queue
from backend.web.render import renderer
from backend.web.repeats import Repeated
from backend.web.security import own_names
from backend.web.standing import Standing
from backend.web.stream import Hub, stopped_by_signals
from backend.web.turns import Turns
from backend.web.works import Works

log = logging.getLogger(__name__)
T = TypeVar("T")

HASHES_AT_ONCE = 2
"""Each takes 64 MiB and 0.2 s of a core."""
READ_AT_ONCE, LIST_AT_ONCE, ASK_AT_ONCE = 4, 2, 8
"""Limited processes that pages wait for: some take a GiB. Lists of models, the first of which looks at them all. Requests that
wait for the hub or for a whole reading take little but a thread."""
FETCH_AT_ONCE = 100
"""Launches that wait for a download take no thread, and may wait for days."""
AGAIN_SECONDS = 1.0
"""After which a start that found no Postgres looks again."""
TIDY_AGAIN_SECONDS = 600.0
"""After which what broke off is cleared away where that failed: most likely a bucket is away, and nobody waits for it."""
SWEEP_SECONDS = 3600.0
"""Between two looks for uploads that nobody has touched for a day."""
TAKE_UP_SECONDS = 60.0
"""Between two looks for operations that nobody carries out."""
THREADS = 40
"""More than all that may take a thread for long, so that a password or a piece of an upload never waits for them."""


class Studio:
    """Created once; `running()` spans the life of the server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hosts = own_names((*settings.hosts, settings.host))
        self.engine = db.async_engine(settings.database_url)
        self.sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        # Each statement is a snapshot of its own anyway, and a reader that waits for its turn holds no transaction open.
        at_once = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.readers = async_sessionmaker(at_once, expire_on_commit=False, autoflush=False)
        self.sync_engine = db.engine(settings.database_url, pool_size=2)
        self.sync_sessions = sessionmaker(self.sync_engine)
        # For chores that wait for a disk or a bucket in between: Postgres would end their transaction meanwhile.
        self.at_once = sessionmaker(self.sync_engine.execution_options(isolation_level="AUTOCOMMIT"))
        self.operations = Operations(self.sync_engine, settings)
        self.pulse_engine = db.async_engine(settings.database_url, pool_size=1)
        self.pulse = Pulse(
            Vital(DATABASE, asks_database(self.pulse_engine)),
            Vital(QUEUE, asks_queue(settings.redis_url)),
            self._changed,
        )
        self.hub = Hub(self.readers, partial(queue.doorbells, settings.redis_url), self.pulse.away)
        self.renderer = renderer()
        self.standing = Standing(self.read)
        self.hashing = asyncio.Semaphore(HASHES_AT_ONCE)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.works = Works(self.spawn)
        self.reading, self.listing = Turns(READ_AT_ONCE, 3), Turns(LIST_AT_ONCE, 1)
        self.asking, self.launching = Turns(ASK_AT_ONCE, 2), Turns(ASK_AT_ONCE, 2)
        self.fetching = Turns(FETCH_AT_ONCE, 10)
        self.gauge = Gauge(self)
        self.started_at = datetime.now(UTC)
        self.checks = Checks(settings, self.spawn)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="web"))
        self.spawn(self.hub.run())
        self.spawn(self.pulse.run())
        with spare_kept():
            with stopped_by_signals(self.hub):
                try:
                    await self._begin()
                except (OperationalError, Unavailable):  # every page says so meanwhile, which is better than no server
                    self.spawn(until_done("the start", self._begin, AGAIN_SECONDS))
                yield
            self.hub.stop()
            for task in self.tasks:
                task.cancel()
            await asyncio.to_thread(self.operations.close)
        await self.pulse.settle()
        await self.engine.dispose()
        await self.pulse_engine.dispose()
        self.sync_engine.dispose()

    async def _begin(self) -> None:
        """What a start does before anybody is served: the set-up link, and what broke off is taken up."""
        await self.write(self._prepare)
        await asyncio.to_thread(self.operations.resume)
        self.spawn(self._tidy())
        self.spawn(self._take_up())

    async def _tidy(self) -> None:
        """All of it once, since a bucket may be large. Uploads again and again."""
        await until_done("clearing away what broke off", self._tidying(store.clean_up), TIDY_AGAIN_SECONDS)
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await until_done("sweeping uploads", self._tidying(store.sweep_uploads), TIDY_AGAIN_SECONDS)

    async def _take_up(self) -> None:
        """Operations that stand though Postgres never answered so, and those whose lock outlived who had it."""
        while True:
            await asyncio.sleep(TAKE_UP_SECONDS)
            resume = partial(asyncio.to_thread, self.operations.resume)
            await until_done("taking up operations", resume, TAKE_UP_SECONDS)

    def _tidying(self, work: Callable[[Session, Settings], None]) -> Callable[[], Awaitable[None]]:
        def tidy() -> None:
            with self.at_once() as session:
                work(session, self.settings)

        return partial(asyncio.to_thread, tidy)

    def _prepare(self, session: Session) -> None:
        people.lock_first_start(session)
        people.setup_link(session, self.settings.folder("run"))
        repeats.forget_old(session)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run beside the requests. The set keeps a reference: the loop alone would let it be collected."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("work beside the requests failed", exc_info=error)

    # ---- the database ------------------------------------------------------------------------------------------------

    async def read(self, work: Callable[[Session], T]) -> T:
        """What `work` finds; it writes nothing. Raises `Unavailable` where Postgres is away."""
        return await self.pulse.answered(self._read(work))

    async def _read(self, work: Callable[[Session], T]) -> T:
        async with self.readers() as session:
            return await session.run_sync(work)

    async def write(self, work: Callable[[Session], T]) -> T:
        """One transaction; the hints that it left go out right after the commit. Raises `Unavailable` as well."""
        result, rings = await self.pulse.answered(self._write(work))
        if rings:
            self.spawn(asyncio.to_thread(self._tell, rings))
        return result

    async def _write(self, work: Callable[[Session], T]) -> tuple[T, set[UUID]]:
        async with self.sessions() as session:
            result = await session.run_sync(work)
            await session.commit()
            return result, take_rings(session.sync_session)

    def _changed(self) -> None:
        self.hub.wake()

    def _tell(self, rings: set[Any]) -> None:
        queue.ring(self.settings.redis_url, rings)
        queue.publish(self.sync_sessions, self.settings.redis_url)

    async def hash_password(self, password: str) -> str:
        async with self.hashing:
            return await asyncio.to_thread(people.hash_password, password)

    async def password_matches(self, password: str, password_hash: str | None) -> bool:
        async with self.hashing:
            return await asyncio.to_thread(people.password_matches, password, password_hash)

    # ---- the door ----------------------------------------------------------------------------------------------------

    async def identify(self, connection: HTTPConnection) -> Identity | None:
        """Who asks: by token, else by cookie. A token that is wrong is not made good by a cookie."""
        scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
        if scheme:
            bearer = scheme.lower() == "bearer" and secret.strip()
            return await self.write(lambda s: people.find_bearer(s, secret.strip())) if bearer else None
        cookie = connection.cookies.get(cookie_name(connection))
        identity = await self.read(lambda s: people.find_session(s, cookie)) if cookie else None
        if identity and identity.is_stale:
            await self.write(lambda s: people.saw(s, identity))
        return identity

    async def still_holds(self, identity: Identity) -> bool:
        return await self.standing.holds(identity)

    async def refuse(self, request: Request, error: Exception) -> Response:
        if isinstance(error, Repeated):
            return JSONResponse(error.answer, error.status, {"Idempotency-Replayed": "true"})
        return failures.answer(request, error, self.renderer)


def is_https(connection: HTTPConnection) -> bool:
    return connection.url.scheme == "https"


def cookie_name(connection: HTTPConnection) -> str:
    """`__Host-` binds the cookie to this very host over HTTPS; browsers refuse such a name over plain HTTP."""
    return "__Host-studio" if is_https(connection) else "studio"


def studio_of(connection: HTTPConnection) -> Studio:
    return cast(Studio, connection.app.state.studio)
