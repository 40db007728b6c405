"""Cold start of the web process to its first answer, and the memory it then holds.

The peer is what the Gradio and Unsloth studios do: a web process that imports the training libraries itself. Ours also
reaches its database, which waits for its disk, and makes its pages ready; the peer's application has one route and nothing else.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
from sqlalchemy.orm import Session

from backend.core import db, people, runs
from backend.core.models import Role
from backend.core.recipe import read_recipe
from backend.embedded.postgres import start_postgres
from backend.embedded.valkey import start_valkey
from benchmarks.measure import Figure, column
from benchmarks.peers import answers, free_port, own_versions
from benchmarks.rows import Asked, Row, growth
from tests.support.processes import processor_seconds

ROUNDS = 7
RUNS = (10, 100, 1000)
OURS = ["-m", "backend.cli", "web"]
PEER = """
import os, torch, transformers, peft, uvicorn
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from fastapi import FastAPI
app = FastAPI()
app.get("/healthz")(lambda: {"ok": True})
uvicorn.run(app, port=int(os.environ["STUDIO_PORT"]), log_level="error")
"""


def measure(_asked: Asked) -> Sequence[Row]:
    with tempfile.TemporaryDirectory(prefix="fts-", dir="/tmp") as folder:
        home = Path(folder).resolve()
        postgres, valkey = start_postgres(home), start_valkey(home)
        try:
            db.migrate(postgres.url)
            urls = {"DATABASE_URL": postgres.url, "REDIS_URL": valkey.url, "STUDIO_HOME": str(home)}
            cookie = _signed_in(postgres.url)
            rounds = [(_start(OURS, urls, cookie), _start(["-c", PEER], urls)) for _ in range(ROUNDS)]
            grown = [_start_with(first, count, urls, cookie) for first, count in pairwise((0, *RUNS))]
        finally:
            valkey.stop()
            postgres.stop()
    ours, peers = [pair[0] for pair in rounds], [pair[1] for pair in rounds]
    peer_name = f"{own_versions('torch', 'transformers')} in the web process"
    figures = [
        Figure("first answer", "s", column(ours, "seconds"), column(peers, "seconds"), peer_name, goal=1.2),
        Figure("CPU until then", "s", column(ours, "cpu"), column(peers, "cpu"), peer_name),
        Figure("memory then", "MB", column(ours, "megabytes"), column(peers, "megabytes"), peer_name, goal=120),
        Figure("memory after the first page", "MB", column(ours, "page_megabytes"), goal=120),
    ]
    what = "from the start to the first page, the home page, of a studio with 100 times the runs"
    grew = growth("7a-growth", what, grown, at=RUNS, of="runs", unit="s")
    return [*(figure.row("7a") for figure in figures), grew]


def _start_with(first: int, count: int, urls: Mapping[str, str], cookie: str) -> float:
    """Make the studio one of `count` runs; what it then takes to its first page."""
    recipe = read_recipe({"name": "run", "model": "tiny", "data": {"sets": ["rows"]}, "method": "lora"}).recipe
    engine = db.engine(urls["DATABASE_URL"])
    with Session(engine) as session:
        for number in range(first, count):
            named = recipe.model_copy(update={"name": f"run-{number}"})
            runs.create(session, recipe=named, model={"path": "tiny", "revision": None}, data=[])
        session.commit()
    engine.dispose()
    return statistics.median(_start(OURS, urls, cookie)["page_seconds"] for _ in range(5))


def _signed_in(database_url: str) -> str:
    """The cookie of somebody who may read the home page."""
    engine = db.engine(database_url)
    with Session(engine) as session:
        cookie = people.sign_in(session, people.create(session, "ada", "no password", Role.ADMIN, by=None), "", hours=1)
        session.commit()
    engine.dispose()
    return cookie


def _start(arguments: Sequence[str], urls: Mapping[str, str], cookie: str = "") -> dict[str, float]:
    """Start a process, wait for its first 200, look at it, look again behind the home page of who has signed in, end it."""
    port = free_port()
    environment = {**os.environ, **urls, "STUDIO_PORT": str(port)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # all but the first start of an installation find bytecode
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not answers(f"127.0.0.1:{port}", "/healthz"):
            if process.poll() is not None:
                raise SystemExit(f"{arguments} ended with code {process.returncode}")
            time.sleep(0.01)
        seconds = time.monotonic() - began
        seen = psutil.Process(process.pid)
        answered = {"seconds": seconds, "cpu": processor_seconds(seen), "megabytes": seen.memory_info().rss / 1e6}
        if cookie:
            home = Request(f"http://127.0.0.1:{port}/", headers={"Cookie": f"studio={cookie}"})
            with urlopen(home) as page:
                assert b"</html>" in page.read()
        return answered | {"page_seconds": time.monotonic() - began, "page_megabytes": seen.memory_info().rss / 1e6}
    finally:
        process.kill()
        process.wait()
