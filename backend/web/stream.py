"""The live stream: server-sent events that replay from Postgres and go on by the doorbell.

One loop a process reads the news of all runs that somebody watches, and encodes each event once. A viewer is no more than
a cursor: it takes what lies in the feed behind its cursor, or reads it from Postgres where the feed does not reach back so
far. So nothing is queued for anybody, a slow viewer costs nothing and misses nothing, and opening, refreshing,
reconnecting and reading a finished run are one path.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from types import FrameType
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from backend.core import journal
from backend.core.bulk import among
from backend.core.errors import Unavailable
from backend.core.ids import as_uuid
from backend.core.models import ENDED, Run, RunEvent
from backend.web import reading
from backend.web.lasting import until_done
from backend.web.shapes.runs import EventOut, RunOut

BEAT_SECONDS = 10.0
CHECK_SECONDS = 2.0
"""How often a viewer's sign-in is looked at: one that has ended is read to no longer than twice this."""
LOOK_SECONDS = 1.0
"""How old news may get while Redis is silent."""
PAGE = 500
FEED_EVENTS, FEED_BYTES = 2000, 8 << 20
BLOCK_BYTES = 1 << 18
"""About the most that a viewer is sent in one piece."""
OPENING = b": open\nretry: 1000\n\n"


@dataclass
class Feed:
    """The newest events of one run, encoded. It holds everything with `floor < seq <= head`."""

    run: RunOut
    floor: int
    events: deque[tuple[int, bytes]] = field(default_factory=deque)
    size: int = 0
    """Of them all, in bytes."""
    viewers: int = 0

    @property
    def head(self) -> int:
        return self.events[-1][0] if self.events else self.floor

    @property
    def has_ended(self) -> bool:
        return self.run.state in ENDED and self.head >= self.run.seq

    def add(self, events: Iterable[RunEvent]) -> None:
        for event in events:
            self.events.append((event.seq, encoded(event)))
            self.size += len(self.events[-1][1])
            while len(self.events) > FEED_EVENTS or self.size > FEED_BYTES:
                self.floor, forgotten = self.events.popleft()
                self.size -= len(forgotten)

    def since(self, cursor: int) -> list[tuple[int, bytes]] | None:
        """What lies behind the cursor; None where that reaches further back than the feed. Looked for from the newest on: each
        viewer asks at every step, and all that lies before its cursor is none of its business."""
        if cursor < self.floor:
            return None
        return list(takewhile(lambda item: item[0] > cursor, reversed(self.events)))[::-1]

    def newest(self, cursor: int) -> list[tuple[int, bytes]] | None:
        """The run's state alone, as a list page shows it, where anything happened behind the cursor."""
        return [(self.run.seq, self.run.model_dump_json().encode())] if self.run.seq > cursor else []


def encoded(event: RunEvent) -> bytes:
    return EventOut.model_validate(event_fields(event)).model_dump_json().encode()


def event_fields(event: RunEvent) -> dict[str, Any]:
    names = ("seq", "at", "kind", "step", "attempt", "data")
    return {"run": event.run_id, **{name: getattr(event, name) for name in names}}


class Hub:
    """The feeds of this process, the one loop that fills them, and the one clock of all viewers."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        doorbells: Callable[[], AsyncGenerator[str | None, None]],
        away: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self.sessions, self.doorbells, self.away = sessions, doorbells, away
        self.feeds: dict[UUID, Feed] = {}
        self.open_ended: list[dict[UUID, Feed]] = []
        """The feeds of viewers who are told of runs made from now on."""
        self.newest = UUID(int=0)
        self.changed = asyncio.Event()
        self.is_stopped = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(until_done("the news of live streams", self._follow, LOOK_SECONDS))
            both.create_task(self._remind())

    async def _remind(self) -> None:
        """Have viewers look at the time now and then. A timer for each, set anew at every step, took a fifth of a step's cost."""
        while not self.is_stopped:
            await asyncio.sleep(min(CHECK_SECONDS, BEAT_SECONDS))
            self.wake()

    async def _follow(self) -> None:
        """Look whenever a doorbell rings, and at everything once a second whether one rang or not."""
        looked = 0.0
        async with contextlib.aclosing(self.doorbells()) as doorbells:
            async for rung in doorbells:
                if self.is_stopped:
                    return
                is_due = time.monotonic() - looked >= LOOK_SECONDS
                await self._hear(None if is_due or rung is None else as_uuid(rung))
                looked = time.monotonic() if is_due else looked

    async def _hear(self, run_id: UUID | None) -> None:
        if self.open_ended and run_id not in self.feeds:
            await self._look_for_new_runs()
        await self._look(list(self.feeds) if run_id is None else [run_id])

    async def _look(self, run_ids: list[UUID]) -> None:
        watched = {run_id: self.feeds[run_id] for run_id in run_ids if run_id in self.feeds}
        if not watched:
            return
        heads = {run_id: feed.head for run_id, feed in watched.items()}
        async with self.sessions() as session:
            news = await session.run_sync(news_after, heads)
        for run, events in news:
            watched[run.id].add(events)
            watched[run.id].run = run
        if news:
            self.wake()

    async def _look_for_new_runs(self) -> None:
        async with self.sessions() as session:
            runs = await session.run_sync(reading.runs_after, self.newest, PAGE)
        for run in runs:
            self.newest = max(self.newest, run.id)
            for feeds in self.open_ended:
                self._join(feeds, run)
        if runs:
            self.wake()

    def _join(self, feeds: dict[UUID, Feed], run: RunOut) -> None:
        if run.id not in feeds:
            feeds[run.id] = self.feeds.setdefault(run.id, Feed(run, floor=run.seq))
            feeds[run.id].viewers += 1

    @contextlib.asynccontextmanager
    async def watching(self, run_ids: Iterable[UUID], beyond: UUID | None = None) -> AsyncIterator[dict[UUID, Feed]]:
        """The feeds of these runs, and of all that were or will be made after the run `beyond`, kept filled meanwhile."""
        wanted = list(run_ids)
        feeds: dict[UUID, Feed] = {}
        async with self.sessions() as session:
            runs = await session.run_sync(reading.runs_by_id, wanted)
            if beyond:
                runs += await session.run_sync(reading.runs_after, beyond, PAGE)
        for run in runs:
            self._join(feeds, run)
        if beyond:
            self.newest = self.newest if self.open_ended else max((beyond, *feeds))
            self.open_ended.append(feeds)
        try:
            yield feeds
        finally:
            self.open_ended = [each for each in self.open_ended if each is not feeds]
            for run_id, feed in feeds.items():
                feed.viewers -= 1
                if not feed.viewers:
                    del self.feeds[run_id]

    async def history(self, run_id: UUID, after: int, room_bytes: int) -> list[tuple[int, bytes]]:
        async with self.sessions() as session:
            events = await session.run_sync(journal.events, run_id, after, PAGE, room_bytes)
        return [(event.seq, encoded(event)) for event in events]

    def stop(self) -> None:
        """End every stream: the server waits for open ones before it ends."""
        self.is_stopped = True
        self.wake()

    def wake(self) -> None:
        """Have every viewer look, at news and at what of the studio does not answer."""
        self.changed.set()
        self.changed = asyncio.Event()


def news_after(session: Session, heads: Mapping[UUID, int]) -> list[tuple[RunOut, list[RunEvent]]]:
    """Each run that has events after its head, with one page of them; the rest comes at the next look."""
    rows = session.execute(select(Run.id, Run.seq).where(among(Run.id, heads)))
    moved = [run_id for run_id, seq in rows if seq > heads[run_id]]
    runs = reading.runs_by_id(session, moved) if moved else []
    return [(run, journal.events(session, run.id, heads[run.id], PAGE)) for run in runs]


# ---- one viewer -----------------------------------------------------------------------------------------------------


@dataclass
class Viewer:
    """A cursor a run. `is_single`: one run, whose ids are plain numbers and whose end ends the stream."""

    cursors: dict[UUID, int]
    is_single: bool
    wants_latest: bool
    beyond: UUID | None
    """Runs made after this one are followed too."""
    may_go_on: Callable[[], Awaitable[bool]]
    """Asked again now and then: whether the sign-in still holds."""
    is_owed: bool = False
    """Postgres did not answer: of what came before there may be more."""
    turn: int = 0
    """The place of the run that comes first in the next block, so that a long one does not hold the others back."""

    def id(self) -> bytes:
        if self.is_single:
            return b"%d" % next(iter(self.cursors.values()))
        return ",".join(f"{run_id}:{seq}" for run_id, seq in self.cursors.items()).encode()

    def frame(self, data: bytes) -> bytes:
        return b"id: %s\ndata: %s\n\n" % (self.id(), data) if self.is_single else b"data: %s\n\n" % data

    def closed(self, block: bytearray) -> bytes:
        """Of several runs only a block's last event has an id, which names them all: at each event it would be most of what is
        sent. Whoever loses the connection within a block is told its events again, under the same numbers."""
        if block and not self.is_single:
            block[-1:] = b"id: %s\n\n" % self.id()
        return bytes(block)

    def in_turn(self, feeds: Mapping[UUID, Feed]) -> Iterator[tuple[UUID, Feed]]:
        runs = list(feeds.items())  # new ones may join while history is read
        for place in [*range(self.turn, len(runs)), *range(self.turn)]:
            self.turn = place + 1
            yield runs[place]


async def frames(hub: Hub, viewer: Viewer) -> AsyncIterator[bytes]:
    """The bytes of one viewer's stream, until the run or the sign-in ends, or the server stops."""
    yield OPENING
    async with hub.watching(viewer.cursors, viewer.beyond) as feeds:
        checked = spoke = time.monotonic()
        told = tuple[str, ...]()
        while not hub.is_stopped:
            changed = hub.changed  # taken before reading, so that nothing slips between
            if (away := hub.away()) != told:
                told = away
                yield b"event: away\ndata: %s\n\n" % (",".join(away) or "nothing").encode()
            if block := await next_block(hub, feeds, viewer):
                spoke = time.monotonic()
                yield block
            elif viewer.is_owed:
                await asyncio.sleep(LOOK_SECONDS)
            elif viewer.is_single and all(feed.has_ended for feed in feeds.values()):
                if feeds:  # else it was deleted since it was found
                    yield ending(feeds)
                return
            elif since(spoke) >= BEAT_SECONDS:
                spoke = time.monotonic()
                yield b"event: beat\ndata: 0\n\n"
            else:
                await changed.wait()
            if since(checked) >= CHECK_SECONDS:
                checked = time.monotonic()
                if not await may_go_on(viewer):
                    return


def since(then: float) -> float:
    return time.monotonic() - then


async def next_block(hub: Hub, feeds: Mapping[UUID, Feed], viewer: Viewer) -> bytes:
    """What is new to the viewer, in one piece of about `BLOCK_BYTES` at most; empty when that is nothing."""
    block = bytearray()
    viewer.is_owed = False
    for run_id, feed in viewer.in_turn(feeds):
        cursor = viewer.cursors.setdefault(run_id, 0)
        items = feed.newest(cursor) if viewer.wants_latest else feed.since(cursor)
        if items is None:
            items = await patiently(hub, run_id, cursor, BLOCK_BYTES - len(block))
        if items is None:
            viewer.is_owed = True
            break
        for seq, data in items:
            viewer.cursors[run_id] = seq
            block += viewer.frame(data)
            if len(block) >= BLOCK_BYTES:
                return viewer.closed(block)
    return viewer.closed(block)


async def patiently(hub: Hub, run_id: UUID, cursor: int, room_bytes: int) -> list[tuple[int, bytes]] | None:
    """A page of history; None while Postgres is away, since the stream outlives a restart of it."""
    try:
        return await hub.history(run_id, cursor, room_bytes)
    except OperationalError:
        return None


async def may_go_on(viewer: Viewer) -> bool:
    """While Postgres is away there is nothing to see, so nobody is sent away."""
    try:
        return await viewer.may_go_on()
    except (OperationalError, Unavailable):
        return True


def ending(feeds: Mapping[UUID, Feed]) -> bytes:
    run = next(iter(feeds.values())).run
    return b"event: end\ndata: %s\n\n" % run.model_dump_json().encode()


def cursor_of(text: str, run_ids: Iterable[UUID]) -> dict[UUID, int]:
    """A `Last-Event-ID`: `17`, or `A:17,B:4`. EventSource gives up for good on any status but 200, so nonsense is no
    error: it replays from the start."""
    wanted = list(run_ids)
    if len(wanted) == 1 and ":" not in text:
        return {wanted[0]: _count(text)}
    pairs = dict(part.partition(":")[::2] for part in text.split(","))
    return {run_id: _count(pairs.get(str(run_id), "")) for run_id in wanted}


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 18 else 0


@contextlib.contextmanager
def stopped_by_signals(hub: Hub) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the streams first. The server ends the lifespan only after the last stream, so the
    lifespan's own end would come too late: the handlers are chained at its start."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    loop = asyncio.get_running_loop()
    theirs = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ours(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(hub.stop)
        if callable(handler := theirs[signal.Signals(number)]):
            handler(number, frame)

    for number in theirs:
        signal.signal(number, ours)
    try:
        yield
    finally:
        for number, handler in theirs.items():
            signal.signal(number, handler)
