"""From a step to a pixel: how old a step is when the chart of an open page shows it, while 200 others read along.

A trainer's journal stamps each step; the supervisor's loop ships it, Postgres keeps it, the doorbell rings, and the web,
held to one core, tells all streams. The page notes when the frame with the step has been painted. All clocks are this machine's.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy.orm import Session, sessionmaker

from backend.core import journal, queue
from backend.core.runs import Token
from backend.core.settings import Settings
from benchmarks.durable_points import claimed
from benchmarks.logging_call import NAMES
from benchmarks.rows import Asked, Row, growth, row
from tests.support.browsers import find_chromium
from tests.support.webs import SignedIn, Web, running_web
from worker import tail
from worker.trainer.journal import Journal

READERS = (2, 20, 200)
STEPS, STEP_SECONDS, FIRST = 300, 0.1, 20
"""The first steps are not counted: readers are still connecting."""
WATCH = """
() => {
  window.painted = [];
  const shown = document.querySelector("[data-steps]");
  new MutationObserver(() => requestAnimationFrame(() => {
    const painting = new MessageChannel();  // its message comes after this frame was painted
    painting.port1.onmessage = () =>
      window.painted.push([shown.isConnected ? shown.textContent : "", performance.timeOrigin + performance.now()]);
    painting.port2.postMessage(0);
  })).observe(document.body, { subtree: true, childList: true, characterData: true });
}
"""


@dataclass(frozen=True)
class Seen:
    """Seconds that steps were old: on the page, and at the readers; and processor seconds of the web."""

    page: Sequence[float]
    readers: Sequence[float]
    cpu: float
    complete: bool


def measure(_asked: Asked) -> Sequence[Row]:
    with running_web() as web, sync_playwright() as playwright:
        psutil.Process(web.process.pid).cpu_affinity([0])
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        seen = {count: watch(web, browser, count) for count in READERS}
        browser.close()
    most = seen[READERS[-1]]
    ages = ", ".join(f"{count}: {p95(each.readers) * 1e3:.0f} ms" for count, each in seen.items())
    told = "every reader got every step once" if all(each.complete for each in seen.values()) else "STEPS ARE MISSING"
    page = row(
        "2c",
        "a step's age when it is painted, p95, 200 readers",
        "ms",
        p95(most.page) * 1e3,
        most=150,
        equal=all(each.complete for each in seen.values()),
        beside=f"median {statistics.median(most.page) * 1e3:.0f} ms; {told}; p95 at the readers, by their number: {ages}",
    )
    costs = [each.cpu / (STEPS * count) * 1e6 for count, each in seen.items()]
    what = "the web's work for a reader and a step, at 100 times the readers"
    unit = "µs of processor"
    grown = growth("2c-growth", what, costs, at=READERS, of="readers", unit=unit, digits=0, most=1, times="× as much")
    return [page, grown]


def watch(web: Web, browser: Browser, count: int) -> Seen:
    """One run of so many steps, seen by a page and `count` readers."""
    member = web.sign_in(f"person {count}")
    with training(web) as run_id:
        context = browser.new_context(base_url=web.address)
        context.add_cookies([{"name": "studio", "value": member.cookie, "url": web.address}])
        page = context.new_page()
        page.goto(f"/runs/{run_id}")
        page.evaluate(WATCH)
        process = psutil.Process(web.process.pid)
        before = process.cpu_times()
        told = readers(web, member, run_id, count)
        after = process.cpu_times()
        page.wait_for_timeout(1000)
        painted: list[tuple[str, float]] = page.evaluate("() => window.painted")
        with web.session() as session:
            events = journal.events(session, run_id, limit=10_000)
        stamps = {event.step: event.data["t"] for event in events if event.kind == "metrics"}
        context.close()
    complete = all(steps == STEPS for steps in told["steps"])
    ages = told["ages"][FIRST * count :]
    cpu = after.user + after.system - before.user - before.system
    return Seen(page_ages(painted, stamps), ages, cpu, complete)


def page_ages(painted: Sequence[tuple[str, float]], stamps: dict[int, float]) -> list[float]:
    """A step is seen with the first frame that shows it or a later one. Raises where the last was never seen."""
    frames = [
        (int(found[1].replace(",", "")), at / 1e3) for text, at in painted if (found := re.search(r"([\d,]+)", text))
    ]
    wanted = [step for step in sorted(stamps) if step > FIRST]
    return [next(at for shown, at in frames if shown >= step) - stamps[step] for step in wanted]


def readers(web: Web, member: SignedIn, run_id: UUID, count: int) -> dict[str, list[float]]:
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
    answer: dict[str, list[float]] = json.loads(done.stdout)
    return answer


# ---- the trainer and the supervisor ---------------------------------------------------------------------------------


@contextmanager
def training(web: Web) -> Iterator[UUID]:
    """A run that makes a step every `STEP_SECONDS`, shipped as a supervisor ships."""
    sessions = sessionmaker(web.engine, expire_on_commit=False)
    token = claimed(sessions)
    with tempfile.TemporaryDirectory() as folder:
        path, over = Path(folder) / "events.jsonl", threading.Event()
        make = threading.Thread(target=make_steps, args=(path, over))
        send = threading.Thread(target=ship, args=(sessions, web.settings, token, path, over))
        for each in (make, send):
            each.start()
        try:
            yield token.run_id
        finally:
            over.set()
            for each in (make, send):
                each.join()


def make_steps(path: Path, over: threading.Event) -> None:
    with Journal(path) as told:
        told.facts(total_steps=STEPS)
        time.sleep(3)  # for the page and the readers to open
        for told.step in range(1, STEPS + 1):
            told.metrics({name: 1 / (told.step + at) for at, name in enumerate(NAMES)}, 0.0)
            if over.wait(STEP_SECONDS):
                return
        over.wait()


def ship(sessions: sessionmaker[Session], settings: Settings, token: Token, path: Path, over: threading.Event) -> None:
    start = 0
    while not over.wait(settings.ship_seconds):
        if (chunk := tail.read(path, start)).end > start:
            batch = journal.Batch(token.attempt, chunk.start, chunk.end, chunk.lines)
            with sessions.begin() as session:
                journal.ship(session, token, batch, journal.Origin("here", "runs/x/attempt-1"), 600)
            queue.ring(settings.redis_url, [token.run_id])
            start = chunk.end


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]
