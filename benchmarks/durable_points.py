"""Points a second that survive a power cut: a trainer's journal shipped into Postgres, beside MLflow into its SQLite.

Ours is the supervisor's own path: read the journal, one fenced transaction a batch with events, points, buckets and the
journal's offset, committed to disk. MLflow logs eight metrics a step, synchronously, as its documentation shows.
"""

from __future__ import annotations

import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, sessionmaker

from backend.core import journal, runs
from backend.core.assignment import LineKind
from backend.core.models import Point
from backend.core.recipe import read_recipe
from benchmarks.logging_call import NAMES
from benchmarks.peers import environment, told
from benchmarks.rows import Asked, Row, row
from tests.support.databases import own_postgres
from worker import tail
from worker.trainer.journal import encoded

STEPS, PEER_STEPS, ROUNDS = 20_000, 150, 5
GROWTH = (STEPS // 100, STEPS // 10, STEPS)
PEER = """
import os, sys, time
import mlflow
mlflow.set_tracking_uri("sqlite:///" + sys.argv[1])
names, steps = sys.argv[2].split(","), int(sys.argv[3])
with mlflow.start_run() as run:
    mlflow.log_metrics({name: 0.5 for name in names}, step=0)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        mlflow.log_metrics({name: 1 / (step * 8 + at + 3) for at, name in enumerate(names)}, step=step)
    seconds = time.perf_counter() - began
stored = sum(len(mlflow.MlflowClient().get_metric_history(run.info.run_id, name)) for name in names)
assert stored == (steps + 1) * len(names), stored
print(steps * len(names) / seconds)
"""


def measure(_asked: Asked) -> Sequence[Row]:
    with environment("mlflow") as python, tempfile.TemporaryDirectory() as folder, own_postgres(fast=False) as engine:
        journals = {steps: write_journal(Path(folder) / f"{steps}.jsonl", steps) for steps in GROWTH}
        files = [Path(folder) / f"{at}.db" for at in range(ROUNDS)]
        rounds = [(ship(engine, journals[STEPS], STEPS), peer(python, file)) for file in files]
        grown = [max(ship(engine, path, steps) for _ in files) for steps, path in journals.items()]
    ours, theirs = (statistics.median(side) for side in zip(*rounds, strict=True))
    beside = f"{STEPS * len(NAMES):,} of ours and {PEER_STEPS * len(NAMES):,} of MLflow's were all found stored"
    what = "durable points a second"
    row_2b = row("2b", what, "points/s", ours, theirs, more_is_better=True, least_ratio=100, beside=beside)
    return [row_2b, growth(grown)]


def growth(rates: Sequence[float]) -> Row:
    counts = ", ".join(f"{steps * len(NAMES):,}" for steps in GROWTH)
    beside = f"of {counts} points: {' → '.join(f'{each:,.0f}' for each in rates)} a second"
    what = "time for a point where there are most, beside the shortest"
    return row("2b-growth", what, "× the time", max(rates) / rates[-1], most=1.25, beside=beside)


def write_journal(path: Path, steps: int) -> Path:
    """What a trainer writes in so many steps."""
    with path.open("wb") as file:
        for step in range(1, steps + 1):
            values = {name: 1 / (step * 8 + at + 3) for at, name in enumerate(NAMES)}
            file.write(encoded(step, LineKind.METRICS, step, time.time(), {"values": values, "epoch": step / steps}))
    return path


def claimed(sessions: sessionmaker[Session]) -> runs.Token:
    """A run of its own, on an accelerator of its own."""
    recipe = read_recipe({"name": "points", "model": "tiny", "data": {"sets": ["rows"]}, "method": "lora"}).recipe
    with sessions.begin() as session:
        runs.create(session, recipe=recipe, model={"path": "tiny", "revision": None}, data=[])
    with sessions.begin() as session:
        device = secrets.token_hex(4)
        token = runs.claim(session, worker="host", device=device, place="here", lease_seconds=600, limits=runs.Limits())
    assert token is not None
    return token


def ship(engine: Engine, path: Path, steps: int) -> float:
    """Ship a whole journal of so many steps; the points a second. Each point must then be there."""
    sessions = sessionmaker(engine, expire_on_commit=False)
    token, start = claimed(sessions), 0
    began = time.perf_counter()
    while (chunk := tail.read(path, start)).end > start:
        batch = journal.Batch(token.attempt, chunk.start, chunk.end, chunk.lines)
        with sessions.begin() as session:
            journal.ship(session, token, batch, journal.Origin("here", "runs/x/attempt-1"), 600)
        start = chunk.end
    seconds = time.perf_counter() - began
    with sessions.begin() as session:
        stored = session.execute(select(func.count()).where(Point.run_id == token.run_id)).scalar_one()
    assert (start, stored) == (path.stat().st_size, steps * len(NAMES))
    return float(stored / seconds)


def peer(python: Path, file: Path) -> float:
    command = [str(python), "-W", "ignore", "-c", PEER, str(file), ",".join(NAMES), str(PEER_STEPS)]
    rate: float = told(command, MLFLOW_DISABLE_TELEMETRY="true")
    return rate
