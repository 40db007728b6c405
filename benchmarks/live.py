"""From a step to a pixel: how old a step is when the charts of an open page show it, while 200 others read along.

A thread writes a trainer's journal and stamps each step; the worker's own holding ships it into a Postgres that waits for its
disk, the doorbell rings, and the web, held to one core, tells all streams. The page notes when the frame has been painted in
which the last of its charts has drawn the step. All clocks are this machine's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

import psutil
from playwright.sync_api import Browser
from sqlalchemy.orm import sessionmaker

from backend.core import journal
from backend.core.assignment import JOURNAL
from benchmarks.durable_points import claimed
from benchmarks.logging_call import NAMES
from benchmarks.measure import PAINTED, p95, span
from benchmarks.rows import Asked, Row, growth, row
from tests.support.browsers import running_chromium
from tests.support.processes import is_idle, processor_seconds, wait_until
from tests.support.webs import SignedIn, Web, running_web
from worker.holding import Holding
from worker.host import Host
from worker.spares import Spares, Trainer
from worker.trainer.journal import Journal

READERS, ROUNDS = (2, 20, 200), 3
STEPS, STEP_SECONDS, FIRST = 200, 0.1, 20
"""The first steps are not counted: readers are still connecting."""
WATCH = """
() => {
  PAINTED
  window.seen = [];
  new MutationObserver((changes) => { // a chart tells its points in the frame in which it draws them
    const drawn = [...new Set(changes.map(({ target }) => target))];
    const told = drawn.map(({ dataset }) => [dataset.chart, Number(dataset.points)]);
    void painted().then((at) => seen.push(...told.map((each) => [...each, performance.timeOrigin + at])));
  }).observe(document.body, { subtree: true, attributeFilter: ["data-points"] });
}
""".replace("PAINTED", PAINTED)
Drawn = tuple[str, int, float]
"""A chart, the points that it drew, and when they were painted, in milliseconds since the epoch."""
CHARTS = frozenset({"loss eval_loss", "grad_norm", "learning_rate", "tokens_per_second", "memory_gib"})
"""All of a run's page, by the curves of each. One of them is told at every step."""


@dataclass(frozen=True)
class Seen:
    """Seconds that steps were old: on the page, and at the readers; and processor seconds of the web."""

    page: Sequence[float]
    readers: Sequence[float]
    cpu: float
    complete: bool


@dataclass(frozen=True)
class Told:
    """The steps that each reader got, in order, and the age of every one on arrival."""

    steps: list[list[int]]
    ages: list[float]


def measure(_asked: Asked) -> Sequence[Row]:
    with running_web(fast=False) as web, waiting_trainer(web) as trainer, running_chromium() as browser:
        hold_to_one_core(web.process.pid)
        rounds = [{count: watch(web, trainer, browser, count) for count in READERS} for _ in range(ROUNDS)]
    complete = all(each.complete for seen in rounds for each in seen.values())
    return [painted_row(rounds, complete), growth_row(rounds)]


def hold_to_one_core(pid: int) -> None:
    """All threads of a process: whatever is asked of the process holds its first thread alone. Those that it starts later
    follow the one that starts them, and so it is looked again until every one is held."""
    while loose := [each for each in threads(pid) if os.sched_getaffinity(each) != {0}]:
        for each in loose:
            os.sched_setaffinity(each, {0})


def threads(pid: int) -> list[int]:
    return [each.id for each in psutil.Process(pid).threads()]


def painted_row(rounds: Sequence[Mapping[int, Seen]], complete: bool) -> Row:
    most = [seen[READERS[-1]] for seen in rounds]
    ages = [p95(each.page) * 1e3 for each in most]
    usual = statistics.median(age for each in most for age in each.page) * 1e3
    known = ", ".join(
        f"{at}: {statistics.median(p95(each[at].readers) for each in rounds) * 1e3:.0f}" for at in READERS
    )
    told = "every reader got every step once" if complete else "STEPS ARE MISSING"
    return row(
        "2c",
        "a step's age when all charts have painted it, p95, 200 readers",
        "ms",
        statistics.median(ages),
        most=150,
        equal=complete,
        beside=f"{span(ages, 0)} in {ROUNDS} rounds, median of all {usual:.0f} ms; {told}; p95 at the readers, by their number: "
        f"{known} ms; a Postgres that waits for its disk",
    )


def growth_row(rounds: Sequence[Mapping[int, Seen]]) -> Row:
    """What a step costs however many read would hide in a reader's share what grows with them: each further one is told."""
    works = [statistics.median(seen[count].cpu for seen in rounds) / STEPS * 1e6 for count in READERS]
    between = [*pairwise(zip(READERS, works, strict=True))]
    costs = [(more - less) / (many - few) for (few, less), (many, more) in between]
    sizes = [f"from {few} to {many}" for (few, _less), (many, _more) in between]
    what, unit = "the web's work at a step for each further reader", "µs of processor"
    return growth("2c-growth", what, costs, at=sizes, of="readers", unit=unit, digits=0, times="× as much")


def watch(web: Web, trainer: Trainer, browser: Browser, count: int) -> Seen:
    """One run of so many steps, seen by a page and `count` readers."""
    member = web.sign_in(f"person {count}")
    with training(web, trainer) as run_id:
        context = browser.new_context(base_url=web.address)
        context.add_cookies([{"name": "studio", "value": member.cookie, "url": web.address}])
        page = context.new_page()
        page.goto(f"/runs/{run_id}")
        page.evaluate(WATCH)
        process = psutil.Process(web.process.pid)
        before = processor_seconds(process)
        told = readers(web, member, run_id, count)
        cpu = processor_seconds(process) - before
        page.wait_for_timeout(1000)
        seen: list[Drawn] = page.evaluate("() => window.seen")
        with web.session() as session:
            events = journal.events(session, run_id, limit=10_000)
        stamps = {event.step: event.data["t"] for event in events if event.kind == "metrics"}
        context.close()
    complete = all(steps == list(range(1, STEPS + 1)) for steps in told.steps)
    return Seen(page_ages(seen, stamps), told.ages[FIRST * count :], cpu, complete)


def page_ages(seen: Sequence[Drawn], stamps: Mapping[int, float]) -> list[float]:
    """A step is seen when every chart has drawn so many points. Raises where one never did."""
    frames = {chart: [(points, at / 1e3) for name, points, at in seen if name == chart] for chart, _points, _at in seen}
    drawing = {chart for chart, drawn in frames.items() if drawn[-1][0] > 0}
    assert drawing == CHARTS, f"these alone have drawn anything: {sorted(drawing)}"
    wanted = [step for step in sorted(stamps) if step > FIRST]
    return [max(drawn_at(frames[chart], step) for chart in CHARTS) - stamps[step] for step in wanted]


def drawn_at(drawn: Sequence[tuple[int, float]], step: int) -> float:
    return next(at for points, at in drawn if points >= step)


def readers(web: Web, member: SignedIn, run_id: UUID, count: int) -> Told:
    command = [
        sys.executable,
        "-m",
        "benchmarks.readers",
        web.address,
        member.cookie,
        str(run_id),
        str(count),
        str(STEPS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=STEPS * STEP_SECONDS * 4 + 60)
    return Told(**json.loads(done.stdout))


# ---- the trainer and the supervisor ---------------------------------------------------------------------------------


@contextmanager
def waiting_trainer(web: Web) -> Iterator[Trainer]:
    """A trainer that has imported everything and gets no assignment: a thread here writes in its stead."""
    trainer = Trainer(web.settings)
    try:
        wait_until(
            lambda: is_idle(psutil.Process(trainer.process.pid), 300e6), seconds=120, what="a trainer that waits"
        )
        yield trainer
    finally:
        trainer.kill()


@contextmanager
def training(web: Web, trainer: Trainer) -> Iterator[UUID]:
    """A run that makes a step every `STEP_SECONDS`, watched by its worker."""
    sessions = sessionmaker(web.engine, expire_on_commit=False)
    host = Host(web.settings, sessions, web.settings.redis_url, "host", "here", Spares(web.settings))
    holding = Holding(host, claimed(sessions), "cpu")
    holding.folder.mkdir(parents=True)
    holding.watch(trainer)
    over = threading.Event()
    work = [threading.Thread(target=each, args=(holding, over)) for each in (make_steps, turn)]
    for each in work:
        each.start()
    try:
        yield holding.token.run_id
    finally:
        over.set()
        for each in work:
            each.join()


def make_steps(holding: Holding, over: threading.Event) -> None:
    with Journal(holding.folder / JOURNAL) as told:
        told.facts(total_steps=STEPS)
        time.sleep(3)  # for the page and the readers to open
        for told.step in range(1, STEPS + 1):
            told.metrics({name: 1 / (told.step + at) for at, name in enumerate(NAMES)}, 0.0)
            if over.wait(STEP_SECONDS):
                return
        over.wait()


def turn(holding: Holding, over: threading.Event) -> None:
    """As a supervisor that nobody pokes."""
    while not over.wait(holding.host.settings.ship_seconds):
        holding.turn()
