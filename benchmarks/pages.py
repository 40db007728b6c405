"""The pages beside a Gradio page that lists the same runs: what a person waits for, what comes over the wire, what it costs.

Both are asked in turn by the same browser, each time with an empty cache. Our lists have 1,000 runs behind them, in a Postgres
that waits for its disk; the peer's page holds as many as ours shows first, and nothing else.
"""

from __future__ import annotations

import http.client
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import psutil
from playwright.sync_api import Browser
from sqlalchemy import update

from backend.core import runs
from backend.core.models import Run, State
from backend.core.recipe import read_recipe, resolve
from backend.web.pages.run_list import LISTED
from benchmarks.measure import Figure, column, p95
from benchmarks.peers import environment, serving, versions
from benchmarks.rows import Asked, Row, growth
from tests.support import gallery
from tests.support.browsers import running_chromium
from tests.support.models import save_base
from tests.support.processes import processor_seconds
from tests.support.webs import Web, running_web

COUNTS, ROUNDS, ASKED = (10, 100, 1000), 7, 40
PREFLIGHT = "/runs/preflight?part=quick"
"""What the form of a new run asks while somebody types."""
FORM = {"model.path": gallery.MODEL, "data.sets.0.name": "letters", "method.kind": "lora", "data.truncation": "drop"}
LISTS = ("/", "/runs", "/datasets", "/models", "/recipes")
PEER = """
import os
import gradio as gr
heads = ["Run", "State", "Model", "Step", "Loss", "Started"]
count = int(os.environ["ROWS"])
rows = [[f"run-{number}", "Succeeded", "tiny", 480, 0.68, "an hour ago"] for number in range(count)]
with gr.Blocks(title="Runs") as page:
    gr.Markdown("# Runs")
    gr.Textbox(label="Search runs")
    gr.Button("New run", variant="primary")
    gr.Dataframe(rows, headers=heads)
page.launch(server_port=int(os.environ["PORT"]), quiet=True)
"""
TIMES = """
async () => {
  const [page] = performance.getEntriesByType("navigation");
  const paint = () => performance.getEntriesByName("first-contentful-paint")[0];
  while (!paint()) await new Promise(requestAnimationFrame);
  const all = [page, ...performance.getEntriesByType("resource")];
  return {
    first_byte: page.responseStart - page.requestStart,
    first_paint: paint().startTime,
    kilobytes: all.reduce((sum, each) => sum + each.transferSize, 0) / 1000,
    requests: all.length,
  };
}
"""


@dataclass(frozen=True)
class Side:
    """A server to ask: whose it is, where, what its list is called, and how a row of it is found."""

    address: str
    list_path: str
    row: str
    process: psutil.Process
    cookie: str = ""
    csrf_token: str = ""
    owner: UUID | None = None
    name: str = "ours"


def measure(_asked: Asked) -> Sequence[Row]:
    with running_web(fast=False) as web, peer() as theirs:
        ours = our_side(web)
        grown = [grow(web, ours, first, count) for first, count in pairwise((0, *COUNTS))]
        with running_chromium() as browser:
            look(browser, ours), look(browser, theirs)  # both have opened what they open once
            rounds = [(look(browser, ours), look(browser, theirs)) for _ in range(ROUNDS)]
        served = [(serve(ours, ours.list_path), serve(theirs, theirs.list_path)) for _ in range(ROUNDS)]
        lists = {path: [serve(ours, path)["p95"] for _ in range(ROUNDS)] for path in LISTS}
        preflight = [serve(ours, PREFLIGHT, FORM)["p95"] for _ in range(ROUNDS)]
    typed = Figure("p95 of the preflight", "ms", preflight, goal=100)
    rows = [
        figure.row("pages")
        for figure in (*of_browser(rounds, theirs.name), *of_server(served, lists, theirs.name), typed)
    ]
    what = f"home and list of runs at {COUNTS[-1] // COUNTS[0]} times the runs"
    unit = "ms of processor"
    return [*rows, growth("pages-growth", what, grown, at=COUNTS, of="runs", unit=unit, times="× as much")]


def grow(web: Web, ours: Side, first: int, count: int) -> float:
    """Make the studio one of `count` runs; what the home page and the list of runs then cost, in ms of processor."""
    add_runs(web, ours.owner, range(first, count))
    return sum(serve(ours, path)["cpu"] for path in ("/", "/runs"))


def of_browser(rounds: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], peer_name: str) -> list[Figure]:
    named = {
        "first_byte": ("first byte", "ms"),
        "first_paint": ("first paint", "ms"),
        "list_seen": ("the list stands there", "ms"),
        "kilobytes": ("over the wire", "kB"),
        "requests": ("requests", ""),
    }
    ours, peers = [pair[0] for pair in rounds], [pair[1] for pair in rounds]
    return [Figure(name, unit, column(ours, key), column(peers, key), peer_name) for key, (name, unit) in named.items()]


def of_server(
    served: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], lists: Mapping[str, list[float]], peer_name: str
) -> list[Figure]:
    """Theirs is one ready-made text, so it is told beside our list of runs alone."""
    ours, peers = [pair[0] for pair in served], [pair[1] for pair in served]
    cpu = Figure("CPU of the list", "ms", column(ours, "cpu"), column(peers, "cpu"), peer_name)
    return [cpu, *(Figure(f"p95 of {path}", "ms", slowest, goal=25) for path, slowest in lists.items())]


# ---- both sides -----------------------------------------------------------------------------------------------------


def our_side(web: Web) -> Side:
    ada = web.sign_in("ada")
    save_base(web.settings.folder("models") / gallery.MODEL)
    with web.client(ada.identity) as client, tempfile.TemporaryDirectory() as folder:
        file = gallery.write_rows(Path(folder) / "letters.jsonl", gallery.rows(1000))
        client.put_dataset("letters", file, on_bytes=lambda _count: None)
    return Side(
        web.address,
        "/runs",
        ':text-is("run-990")',
        psutil.Process(web.process.pid),
        ada.cookie,
        ada.identity.csrf_token,
        ada.identity.id,
    )


def add_runs(web: Web, owner: UUID | None, numbers: Iterable[int]) -> None:
    raw = {"name": "run", "model": gallery.MODEL, "data": {"sets": ["letters"]}, "method": "lora"}
    recipe = resolve(read_recipe(raw).recipe, train_rows=1000, context_length=256)
    with web.session() as session:
        for number in numbers:
            named = recipe.model_copy(update={"name": f"run-{number}"})
            data = [{"name": "letters", "version": 1, "rows": 1000}]
            runs.create(
                session,
                recipe=named,
                model={"path": gallery.MODEL, "revision": None},
                data=data,
                owner_id=owner,
            )
        done = {"state": State.SUCCEEDED, "step": 480, "total_steps": 480, "latest": {"loss": 0.68, "eval_loss": 0.7}}
        session.execute(update(Run).values(**done, started_at=Run.created_at, ended_at=Run.created_at))
        session.commit()


@contextmanager
def peer() -> Iterator[Side]:
    environ = {"ROWS": str(LISTED), "GRADIO_ANALYTICS_ENABLED": "False"}
    with environment("gradio") as python, serving(python, PEER, **environ) as (address, process):
        yield Side(address, "/", 'span:text-is("run-9")', process, name=versions(python, "gradio"))


# ---- one look and one answer ----------------------------------------------------------------------------------------


def look(browser: Browser, side: Side) -> dict[str, float]:
    """A person's first visit: nothing is in the cache."""
    context = browser.new_context(base_url=side.address, viewport={"width": 1440, "height": 900})
    if side.cookie:
        context.add_cookies([{"name": "studio", "value": side.cookie, "url": side.address}])
    page = context.new_page()
    page.goto(side.list_path)
    page.wait_for_selector(side.row)
    seen: float = page.evaluate("() => performance.now()")
    page.wait_for_timeout(500)  # what is loaded late counts too
    times: dict[str, float] = page.evaluate(TIMES)
    context.close()
    return times | {"list_seen": seen}


def serve(side: Side, path: str, form: Mapping[str, str] | None = None) -> dict[str, float]:
    """Many answers over one connection: the slowest but one in twenty, and what one costs the server's processor."""
    connection = http.client.HTTPConnection(urlsplit(side.address).netloc, timeout=30)
    ask(connection, side, path, form)
    before, times = processor_seconds(side.process), []
    for _ in range(ASKED):
        began = time.perf_counter()
        assert ask(connection, side, path, form) == 200
        times.append((time.perf_counter() - began) * 1000)
    spent = (processor_seconds(side.process) - before) * 1000
    connection.close()
    return {"p95": p95(times), "cpu": spent / ASKED}


def ask(connection: http.client.HTTPConnection, side: Side, path: str, form: Mapping[str, str] | None = None) -> int:
    headers = {"Cookie": f"studio={side.cookie}", "Accept": "text/html"}
    if form is not None:
        headers |= {"X-CSRF-Token": side.csrf_token, "Origin": side.address}
        headers |= {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST" if form else "GET", path, body=urlencode(form) if form else None, headers=headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status
