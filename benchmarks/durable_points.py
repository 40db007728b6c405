"""Points a second that survive a power cut: a trainer's journal shipped into Postgres, beside MLflow into its SQLite.

Ours is the trainer's journal, told step by step and written, and then the supervisor's own path: read it, one fenced
transaction a batch with events, points, buckets and the journal's offset, committed to disk. In a studio both go on at the same
time; here one follows the other, and the clock runs for both. MLflow logs eight metrics a step, synchronously, as its
documentation shows. The sides take turns in short rounds, since the disk answers now quicker and now slower, each as often first;
before each turn everything lies on the disk, so that neither works off what the other left to do. What is told is the round
whose ratio is the middle one.
"""

from __future__ import annotations

import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session, sessionmaker

from backend.core import journal, runs
from backend.core.models import Point
from backend.core.recipe import read_recipe
from benchmarks.logging_call import NAMES
from benchmarks.measure import in_turns, span
from benchmarks.peers import environment, told, versions
from benchmarks.rows import Asked, Row, growth, row
from tests.support.databases import own_postgres
from worker import tail
from worker.trainer.journal import Journal

STEPS, ROUNDS, LEAST_RATIO = 20_000, 9, 100
GROWTH = (STEPS // 100, STEPS // 10, STEPS)
PEER_STEPS = GROWTH[0]
"""As many as the least of ours: of more, each of the peer's turns would take minutes."""
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
client = mlflow.MlflowClient()
for at, name in enumerate(names):
    stored = {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)}
    assert stored == {0: 0.5} | {step: 1 / (step * 8 + at + 3) for step in range(1, steps + 1)}, name
print(steps * len(names) / seconds)
"""


def measure(asked: Asked) -> Sequence[Row]:
    with tempfile.TemporaryDirectory() as given, own_postgres(fast=False) as engine:
        folder = Path(given)
        compared = [beside_mlflow(engine, folder)] if asked.wants("2b") else []
        return [*compared, *([grown(engine, folder)] if asked.wants("2b-growth") else [])]


def beside_mlflow(engine: Engine, folder: Path) -> Row:
    with environment("mlflow") as python:
        sides = {
            "ours": lambda _at: keep(engine, folder, STEPS),
            "mlflow": lambda at: peer(engine, python, folder / f"{at}.db"),
        }
        rounds = [(each["ours"], each["mlflow"]) for each in in_turns(sides, ROUNDS)]
        known = versions(python, "mlflow")
    ours, theirs = zip(*rounds, strict=True)
    ratios = [mine / others for mine, others in rounds]
    middle = rounds[ratios.index(statistics.median_low(ratios))]
    beside = (
        f"{known}; {STEPS * len(NAMES):,} of ours and {PEER_STEPS * len(NAMES):,} of MLflow's were all found stored "
        f"as they were told; the middle of {ROUNDS} rounds "
        f"by their ratio, of which {sum(each >= LEAST_RATIO for each in ratios)} reach {LEAST_RATIO} times: "
        f"ours {span(ours, 0)}, MLflow {span(theirs, 0)}, {span(ratios, 0)} times"
    )
    what = "points a second from the call to the disk"
    return row("2b", what, "points/s", *middle, more_is_better=True, least_ratio=LEAST_RATIO, beside=beside)


def settle(engine: Engine) -> None:
    """Have all that was written on the disk."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))
    os.sync()


def grown(engine: Engine, folder: Path) -> Row:
    """The sizes take turns too."""
    rounds = [[1e6 / keep(engine, folder, steps) for steps in GROWTH] for _ in range(ROUNDS)]
    costs = [statistics.median(each) for each in zip(*rounds, strict=True)]
    points = [steps * len(NAMES) for steps in GROWTH]
    what, unit = "a point's time in a run of 100 times the points", "µs a point"
    return growth("2b-growth", what, costs, at=points, of="points", unit=unit, digits=1)


def keep(engine: Engine, folder: Path, steps: int) -> float:
    """Tell so many steps, and ship them; the points a second."""
    settle(engine)
    path = folder / "events.jsonl"
    try:
        seconds = tell(path, steps) + ship(engine, path, steps)
    finally:
        path.unlink(missing_ok=True)
    return steps * len(NAMES) / seconds


def tell(path: Path, steps: int) -> float:
    """What a trainer writes in so many steps; the seconds that it takes."""
    began = time.perf_counter()
    with Journal(path) as journal:
        for journal.step in range(1, steps + 1):
            journal.metrics(values_of(journal.step), journal.step / steps)
    return time.perf_counter() - began


def values_of(step: int) -> dict[str, float]:
    """What a step tells, on both sides: no two values are the same."""
    return {name: 1 / (step * 8 + at + 3) for at, name in enumerate(NAMES)}


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
    """Ship a whole journal of so many steps; the seconds that it takes. Each point must then be there, with the
    value that was told."""
    sessions = sessionmaker(engine, expire_on_commit=False)
    token, start = claimed(sessions), 0
    began = time.perf_counter()
    while (chunk := tail.read(path, start)).end > start:
        batch = journal.Batch(token.attempt, chunk.start, chunk.end, chunk.lines)
        with sessions.begin() as session:
            journal.ship(session, token, batch, journal.Origin("here", "runs/x/attempt-1"), 600)
        start = chunk.end
    seconds = time.perf_counter() - began
    assert start == path.stat().st_size
    check_points(engine, token.run_id, steps)
    return seconds


def check_points(engine: Engine, run_id: UUID, steps: int) -> None:
    """Raises where a point is not stored, or is not what was told."""
    columns = (Point.name, Point.step, Point.value)
    with Session(engine) as session:
        points = session.execute(select(*columns).where(Point.run_id == run_id))
        stored = {(name, step): value for name, step, value in points}
    told = {(name, step): value for step in range(1, steps + 1) for name, value in values_of(step).items()}
    same = len(told.items() & stored.items())
    assert stored == told, f"of {len(told):,} points {same:,} are stored as they were told"


def peer(engine: Engine, python: Path, file: Path) -> float:
    settle(engine)
    command = [str(python), "-W", "ignore", "-c", PEER, str(file), ",".join(NAMES), str(PEER_STEPS)]
    rate: float = told(command, MLFLOW_DISABLE_TELEMETRY="true")
    return rate
