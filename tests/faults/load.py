"""What keeps a studio busy for a soak: points through the real journal, event streams, uploads, pages and tiny runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import httpx
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import sessionmaker

from backend.commands.client import Client
from backend.core import runs
from backend.core.models import Point, Run
from backend.core.recipe import read_recipe
from backend.embedded.service import stop_process
from tests.faults.feeding import FED_RUNS, MODULE, RATE
from tests.faults.history import Row, journals_under
from tests.journeys.materials import Material
from tests.support.hosts import RECIPE, ROOT
from tests.support.processes import wait_until

PLACE = "feeder"
START_SECONDS = 120.0
MEASURED = re.compile(rb'"t":\s*([0-9.]+)')
UPLOAD_SECONDS, PAGE_SECONDS = 5.0, 1.0
CATCH_UP_SECONDS = 10.0


@dataclass
class Stream:
    """What one event stream has received, in the order of the numbers of its events; each is due once."""

    run: UUID
    last: int = 0
    gaps: int = 0
    """Events that came out of turn: one before it was missing, or it had come already."""
    due: int = 0
    """The newest event that was stored before the load ended."""

    def receive(self, number: int) -> None:
        self.gaps += number != self.last + 1
        self.last = number

    @property
    def is_whole(self) -> bool:
        return not self.gaps and self.last >= self.due > 0


@dataclass
class Tally:
    """What was answered, and how late events came. Threads add to it."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)
    sent_points: int = 0
    fed_seconds: float = 0.0
    ended_runs: Counter[str] = field(default_factory=Counter)
    due_uploads: int = 0
    streams: list[Stream] = field(default_factory=list)

    def hear(self, what: str, response: httpx.Response) -> None:
        self.statuses[what, response.status_code] += 1


Chore = Callable[[threading.Event], None]


@contextmanager
def in_threads(*chores: Chore) -> Iterator[list[str]]:
    """Everything at once until the context ends. The list tells which of it stopped, and why: such a load proves nothing."""
    ended, failures = threading.Event(), list[str]()

    def run(chore: Chore) -> None:
        try:
            chore(ended)
        except Exception as error:
            failures.append(f"{chore}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(chore,), daemon=True) for chore in chores]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        ended.set()
        for thread in threads:
            thread.join(120)


# ---- points ----------------------------------------------------------------------------------------------------------


class Feeder:
    """A worker host that stores `rate` points a second in a few runs, in processes of its own: `tests/faults/feeding.py`."""

    def __init__(self, studio_home: Path, database_url: str, redis_url: str, rate: float) -> None:
        self.home = studio_home / "feeder"
        self.sessions = sessionmaker(create_engine(database_url.replace("postgresql://", "postgresql+psycopg://", 1)))
        self._lay_out(studio_home)
        self.run_ids = [self._launch(number) for number in range(FED_RUNS)]
        told = {"STUDIO_HOME": str(self.home), "STUDIO_WORKER_NAME": "feeder", RATE: f"{rate / FED_RUNS:g}"}
        told |= {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
        with open(self.home / "logs" / "supervisor.log", "ab") as log:
            command = [sys.executable, "-m", MODULE]
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | told, stdout=log, stderr=log)

    def _lay_out(self, studio_home: Path) -> None:
        """A storage of its own, so that it takes its own runs and nobody else takes them."""
        for name in ("run", "logs", "runs"):
            (self.home / name).mkdir(parents=True, mode=0o700)
        (self.home / "models").symlink_to(studio_home / "models")
        (self.home / "run" / "place").write_text(PLACE)

    def _launch(self, number: int) -> UUID:
        recipe = read_recipe(RECIPE | {"name": f"fed {number}"}).recipe
        with self.sessions.begin() as session:
            model = {"path": "tiny", "revision": None}
            return runs.create(session, recipe=recipe, model=model, data=[], place=PLACE).id

    def wait(self) -> None:
        """Until every one of its runs is being fed: what is launched later is not for this host."""
        wait_until(lambda: len(self.written()) == FED_RUNS, seconds=START_SECONDS, what="the points of each run")

    def stop(self) -> None:
        """In order: all that was written is stored before it ends."""
        stop_process(self.process, signal.SIGTERM, START_SECONDS)

    def written(self) -> dict[tuple[str, int], list[Row]]:
        """The steps in each journal that has any."""
        journals = journals_under(self.home).items()
        steps = {key: [line for line in lines if line["kind"] == "metrics"] for key, lines in journals}
        return {key: lines for key, lines in steps.items() if lines}

    def tell(self, tally: Tally) -> None:
        """How much was written, and for how long."""
        written = [line for lines in self.written().values() for line in lines]
        times = [line["t"] for line in written]
        tally.sent_points = sum(len(line["data"]["values"]) for line in written)
        tally.fed_seconds = max(times) - min(times)

    def newest_events(self) -> dict[UUID, int]:
        """The number of each run's newest event."""
        with self.sessions.begin() as session:
            rows = session.execute(select(Run.id, Run.seq).where(Run.id.in_(self.run_ids)))
            return dict(rows.tuples().all())

    def stored_points(self) -> int:
        with self.sessions.begin() as session:
            return session.execute(select(func.count()).where(Point.run_id.in_(self.run_ids))).scalar_one()


# ---- streams ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Readers:
    """Event streams that stay open, each of one run, and how late each metrics event comes."""

    address: str
    headers: dict[str, str]
    feeder: Feeder
    count: int
    tally: Tally

    def read(self, ended: threading.Event) -> None:
        asyncio.run(self._read(ended))

    async def _read(self, ended: threading.Event) -> None:
        limits = httpx.Limits(max_connections=None)
        timeout = httpx.Timeout(30.0)
        async with httpx.AsyncClient(
            base_url=self.address, headers=self.headers, limits=limits, timeout=timeout, trust_env=False
        ) as client:
            runs = self.feeder.run_ids
            self.tally.streams += [Stream(runs[number % len(runs)]) for number in range(self.count)]
            streams = [asyncio.create_task(self._follow(client, stream)) for stream in self.tally.streams]
            while not ended.is_set():
                await asyncio.sleep(0.2)
                for stream in streams:
                    if stream.done():
                        stream.result()  # none ends by itself: that is an error, and fewer streams are another load
            await self._receive_all()
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    async def _receive_all(self) -> None:
        """Give every stream the time to receive what is stored by now."""
        newest = self.feeder.newest_events()
        for stream in self.tally.streams:
            stream.due = newest[stream.run]
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while not all(stream.is_whole for stream in self.tally.streams) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)

    async def _follow(self, client: httpx.AsyncClient, stream: Stream) -> None:
        path, since = f"/api/v1/runs/{stream.run}/events", time.time()
        while True:
            try:
                headers = {"Last-Event-ID": str(stream.last)} if stream.last else {}
                async with client.stream("GET", path, headers=headers) as response:
                    self.tally.hear("stream", response)
                    async for line in response.aiter_lines():
                        if line.startswith("id:"):
                            stream.receive(int(line.removeprefix("id:")))
                        self._note(line, since)
            except httpx.TransportError as error:
                self.tally.broken[f"stream: {type(error).__name__}"] += 1
            await asyncio.sleep(0.5)

    def _note(self, line: str, since: float) -> None:
        """What happened before somebody came is told late, and is no delay."""
        if '"metrics"' in line and (found := MEASURED.search(line.encode())) and float(found[1]) >= since:
            self.tally.delays.append(time.time() - float(found[1]))


# ---- people ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class People:
    """Who uploads, looks at pages and launches runs, one after the other, for as long as it lasts."""

    client: Client
    material: Material
    fed: list[UUID]
    tally: Tally

    def upload(self, ended: threading.Event) -> None:
        """One is due every so many seconds, however long the one before took."""
        began = time.monotonic()
        for number in range(1, 10**9):
            is_over = ended.wait(max(0.0, began + number * UPLOAD_SECONDS - time.monotonic()))
            self.tally.due_uploads = int((time.monotonic() - began) / UPLOAD_SECONDS)
            if is_over:
                return
            rows = [{"instruction": f"Question {number}.{row}", "output": "An answer."} for row in range(50)]
            self._ask("upload", "PUT", "/datasets/soaked?filename=rows.json", content=json.dumps(rows).encode())

    def look(self, ended: threading.Event) -> None:
        paths = ["/runs", "/datasets", "/models", *(f"/runs/{run}" for run in self.fed)]
        paths += [str(self.client.http.base_url.copy_with(path=page)) for page in self._pages()]
        paths += [f"/runs/{run}/metrics?points=500" for run in self.fed]
        for number in range(10**9):
            self._ask("look", "GET", paths[number % len(paths)])
            if ended.wait(PAGE_SECONDS):
                return

    def _pages(self) -> list[str]:
        """Those that a browser is sent, drawn whole."""
        return [
            "/",
            "/runs",
            "/datasets",
            "/datasets/rows",
            "/models",
            "/runs/new",
            *(f"/runs/{run}" for run in self.fed),
        ]

    def train(self, ended: threading.Event) -> None:
        number = 0
        while not ended.is_set():
            number += 1
            answer = self._ask("launch", "POST", "/runs", json=self.material.recipe("rows", f"soak {number}"))
            if answer is None or not answer.is_success:
                ended.wait(1.0)
                continue
            state = "queued"
            while state not in ("succeeded", "failed") and not ended.wait(1.0):
                found = self._ask("follow", "GET", f"/runs/{answer.json()['id']}")
                state = found.json()["state"] if found is not None and found.is_success else state
            if not ended.is_set():
                self.tally.ended_runs[state] += 1

    def _ask(self, what: str, method: str, path: str, **request: object) -> httpx.Response | None:
        try:
            response = self.client.http.request(method, path, **request)  # type: ignore[arg-type]
        except httpx.TransportError as error:
            self.tally.broken[f"{what}: {type(error).__name__}"] += 1
            return None
        self.tally.hear(what, response)
        return response
