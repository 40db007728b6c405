"""What keeps a studio busy for a soak: points through the real journal, event streams, uploads, pages and tiny runs."""

from __future__ import annotations

import asyncio
import json
import re
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
from backend.core import journal, runs
from backend.core.assignment import Line, LineKind
from backend.core.models import Point
from backend.core.recipe import read_recipe
from backend.core.settings import Settings
from tests.journeys.materials import Material
from tests.support.hosts import RECIPE
from worker.host import Host
from worker.spares import Spares

FED_RUNS = 4
BATCHES_A_SECOND = 10
LEASE_SECONDS = 600.0
"""What feeds is no supervisor: nobody is to take its runs over while the machine is busy."""
MEASURED = re.compile(rb'"t":\s*([0-9.]+)')
UPLOAD_SECONDS, PAGE_SECONDS = 5.0, 1.0


@dataclass
class Tally:
    """What was answered, and how late events came. Threads add to it."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)
    sent_points: int = 0
    fed_seconds: float = 0.0
    ended_runs: Counter[str] = field(default_factory=Counter)

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
    """Ships `rate` points a second into a few runs, as a supervisor does: fenced, offset by offset, bells rung."""

    def __init__(self, home: Path, database_url: str, redis_url: str, rate: float, tally: Tally) -> None:
        self.tally = tally
        configured = Settings(home=home, database_url=database_url, redis_url=redis_url, worker_name="soak")
        sessions = sessionmaker(create_engine(database_url.replace("postgresql://", "postgresql+psycopg://", 1)))
        self.host = Host(configured, sessions, redis_url, "soak", "soak", Spares(configured))
        self.names = [f"metric {number}" for number in range(max(1, round(rate / BATCHES_A_SECOND / FED_RUNS)))]
        self.tokens = [self._start(number) for number in range(FED_RUNS)]
        self.offsets = dict.fromkeys(self.tokens, 0)

    @property
    def run_ids(self) -> list[UUID]:
        return [token.run_id for token in self.tokens]

    def _start(self, number: int) -> runs.Token:
        """A run that only this feeder may claim, in training."""
        recipe = read_recipe(RECIPE | {"name": f"fed {number}"}).recipe
        with self.host.transaction() as session:
            run = runs.create(session, recipe=recipe, model={"path": "tiny", "revision": None}, data=[], place="soak")
            token = runs.claim(
                session,
                worker="soak",
                device="none",
                place="soak",
                lease_seconds=LEASE_SECONDS,
                limits=self.host.limits,
                run_id=run.id,
            )
        assert token is not None
        return token

    def feed(self, ended: threading.Event) -> None:
        step, began = 0, time.monotonic()
        due = began
        while not ended.is_set():
            step += 1
            for token in self.tokens:
                self._ship(token, step)
            self.tally.fed_seconds = time.monotonic() - began
            due += 1 / BATCHES_A_SECOND
            ended.wait(max(0.0, due - time.monotonic()))

    def _ship(self, token: runs.Token, step: int) -> None:
        values = {name: float(step % 100) for name in self.names}
        data = {"values": values, "epoch": 0.0}
        lines = [Line(n=step, t=time.time(), kind=LineKind.METRICS, step=step, data=data)]
        if step == 1:
            lines.insert(0, Line(n=0, t=time.time(), kind=LineKind.PHASE, data={"phase": "training", "text": ""}))
        size = sum(len(line.model_dump_json()) + 1 for line in lines)
        start = self.offsets[token]
        batch = journal.Batch(token.attempt, start, start + size, lines)
        with self.host.transaction() as session:
            journal.ship(session, token, batch, journal.Origin("soak", "soak"), LEASE_SECONDS)
        self.offsets[token] = start + size
        self.tally.sent_points += len(values)

    def stored_points(self) -> int:
        with self.host.sessions.begin() as session:
            return session.execute(select(func.count()).where(Point.run_id.in_(self.run_ids))).scalar_one()


# ---- streams ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Readers:
    """Event streams that stay open, each of one run, and how late each metrics event comes."""

    address: str
    headers: dict[str, str]
    run_ids: list[UUID]
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
            streams = [asyncio.create_task(self._follow(client, number)) for number in range(self.count)]
            while not ended.is_set():
                await asyncio.sleep(0.2)
                for stream in streams:
                    if stream.done():
                        stream.result()  # none ends by itself: that is an error, and fewer streams are another load
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    async def _follow(self, client: httpx.AsyncClient, number: int) -> None:
        path = f"/api/v1/runs/{self.run_ids[number % len(self.run_ids)]}/events"
        last = ""
        while True:
            try:
                headers = {"Last-Event-ID": last} if last else {}
                async with client.stream("GET", path, headers=headers) as response:
                    self.tally.hear("stream", response)
                    async for line in response.aiter_lines():
                        last = line.removeprefix("id:").strip() if line.startswith("id:") else last
                        self._note(line)
            except httpx.TransportError as error:
                self.tally.broken[f"stream: {type(error).__name__}"] += 1
            await asyncio.sleep(0.5)

    def _note(self, line: str) -> None:
        if '"metrics"' in line and (found := MEASURED.search(line.encode())):
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
        number = 0
        while not ended.wait(UPLOAD_SECONDS):
            number += 1
            rows = [{"instruction": f"Question {number}.{row}", "output": "An answer."} for row in range(50)]
            self._ask("upload", "PUT", "/datasets/soaked?filename=rows.json", content=json.dumps(rows).encode())

    def look(self, ended: threading.Event) -> None:
        paths = ["/runs", "/datasets", "/models", *(f"/runs/{run}" for run in self.fed)]
        paths += [f"/runs/{run}/metrics?points=500" for run in self.fed]
        for number in range(10**9):
            self._ask("look", "GET", paths[number % len(paths)])
            if ended.wait(PAGE_SECONDS):
                return

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
