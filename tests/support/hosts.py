"""Worker hosts as real processes, and runs for them to train: tiny models, real files, short leases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, sessionmaker

from backend.core import runs
from backend.core.datasets.schema import Message, Row, arrow_schema, to_record
from backend.core.models import Attempt, Point, Run, RunEvent
from backend.core.recipe import read_recipe, resolve

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")
SUPERVISOR = ("worker.supervisor",)
FAST = {
    "STUDIO_LEASE_SECONDS": "2",
    "STUDIO_RENEW_SECONDS": "0.3",
    "STUDIO_SHIP_SECONDS": "0.05",
    "STUDIO_SPARE_SECONDS": "60",  # a host of one short run would import everything twice
    "STUDIO_DEVICES": "cpu",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
ANIMALS = {
    "owl": "mice",
    "dog": "meat",
    "cow": "grass",
    "cat": "fish",
    "frog": "flies",
    "lion": "meat",
    "duck": "bread",
}
RECIPE: dict[str, Any] = {
    "model": "tiny",
    "data": {"sets": ["owls"], "max_length": 64},
    "method": {"kind": "lora", "r": 4, "lora_dropout": 0.05},
    "training": {
        "learning_rate": 1e-2,
        "max_steps": 24,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
    },
    "evaluation": {"prompts": ["What does the owl eat?"], "eval_steps": 6, "sample_steps": 6, "max_new_tokens": 4},
    "saving": {"save_steps": 4},
}


def write_rows(path: Path, count: int = 60) -> None:
    """A data-set version: short conversations, all different."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    animals = list(ANIMALS.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(1, count + 1):
        animal, food = animals[number % len(animals)]
        question = Message("user", f"What does the {animal} eat? {'Say it. ' * (number % 5)}{number}")
        rows.append(to_record(Row(number, (question, Message("assistant", f"The {animal} eats {food}.")))))
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema()), path)


@dataclass
class Lab:
    """A home, a database and the worker hosts that tests start on them."""

    home: Path
    database_url: str
    redis_url: str
    engine: Engine
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def sessions(self) -> sessionmaker[Session]:
        return sessionmaker(self.engine, expire_on_commit=False)

    def launch(self, *, base: str = "tiny", rows: str = "owls", **changes: dict[str, Any]) -> UUID:
        """A run in the queue; `changes` are merged into the groups of the tests' recipe."""
        groups = RECIPE | {key: RECIPE[key] | changes[key] for key in RECIPE.keys() & changes}
        groups["method"] = changes.get("method", RECIPE["method"])
        recipe = resolve(
            read_recipe(groups | {k: v for k, v in changes.items() if k not in groups}).recipe,
            train_rows=60,
            context_length=256,
        )
        data = [{"name": "owls", "version": 1, "key": f"datasets/{rows}.parquet", "rows": 60, "weight": None}]
        with self.sessions.begin() as session:
            model = {"path": base, "revision": None}
            return runs.create(session, recipe=recipe, model=model, data=data).id

    @contextmanager
    def host(self, name: str = "a", program: Sequence[str] = SUPERVISOR) -> Iterator[subprocess.Popen[bytes]]:
        """A supervisor. What it started dies with it."""
        process = self.start_host(name, program)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def start_host(self, name: str = "a", program: Sequence[str] = SUPERVISOR) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            **FAST,
            "STUDIO_HOME": str(self.home),
            "STUDIO_WORKER_NAME": name,
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            **self.environment,
        }
        (self.home / "logs").mkdir(exist_ok=True)
        with open(self.home / "logs" / f"supervisor-{name}.log", "ab") as log:
            return subprocess.Popen([sys.executable, "-m", *program], cwd=ROOT, env=environment, stdout=log, stderr=log)

    def run(self, run_id: UUID) -> Run:
        with self.sessions.begin() as session:
            return runs.find(session, run_id)

    def losses(self, run_id: UUID) -> dict[int, str]:
        """The loss of every step, to the last bit."""
        with self.sessions.begin() as session:
            rows = session.execute(select(Point.step, Point.value).where(Point.run_id == run_id, Point.name == "loss"))
            return {step: value.hex() for step, value in rows}

    def logged(self, run_id: UUID) -> list[str]:
        """What stands in the run's log, whether anybody can read it or not."""
        lines = select(RunEvent.data["text"].astext).where(RunEvent.run_id == run_id, RunEvent.kind == "log")
        with self.sessions.begin() as session:
            return list(session.execute(lines.order_by(RunEvent.seq)).scalars())

    def attempts(self, run_id: UUID) -> list[Attempt]:
        with self.sessions.begin() as session:
            return list(
                session.execute(select(Attempt).where(Attempt.run_id == run_id).order_by(Attempt.number)).scalars()
            )

    def wait_for(self, run_id: UUID, *states: str, seconds: float = 90) -> Run:
        return self.wait(lambda: (run := self.run(run_id)).state in states and run, f"the run to be {states}", seconds)

    def wait_for_step(self, run_id: UUID, step: int, seconds: float = 90) -> Run:
        return self.wait(lambda: (run := self.run(run_id)).step >= step and run, f"step {step}", seconds)

    def wait(self, look: Callable[[], T | bool], what: str, seconds: float) -> T:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := look():
                return found  # type: ignore[return-value]
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s for {what}\n{self.logs()}")

    def logs(self) -> str:
        """The ends of all logs, for a failure's report."""
        files = sorted((self.home / "logs").glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in files)

    def trainer_of(self, run_id: UUID) -> int:
        """The process id of the run's newest trainer."""
        import json

        path = self.home / "runs" / str(run_id) / f"attempt-{self.run(run_id).attempt}" / "trainer.json"
        return int(json.loads(path.read_text())["pid"])
