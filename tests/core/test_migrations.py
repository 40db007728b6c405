"""The schema goes up and down, and is what the code believes it is."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from backend.core import db
from backend.core.models import Attempt, Base, Intent, Run, State

ROOT = Path(__file__).resolve().parents[2]


def tables(url: str) -> set[str]:
    engine = db.engine(url)
    try:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


def test_the_migrations_build_exactly_the_tables_of_the_code(database_url: str) -> None:
    engine = db.engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, Base.metadata)
    engine.dispose()
    assert differences == []


def test_down_takes_everything_away_and_up_brings_it_back(database_url: str) -> None:
    everything = tables(database_url)
    db.migrate(database_url, "base")
    assert tables(database_url) == set()
    db.migrate(database_url)
    assert tables(database_url) == everything == set(Base.metadata.tables)


def test_a_studio_whose_devices_had_two_live_attempts_can_be_upgraded(database_url: str) -> None:
    """The newest of each device stays: that is what its host is at work on."""
    db.migrate(database_url, "base")
    db.migrate(database_url, "0009")
    engine = db.engine(database_url)
    lease = datetime(2026, 1, 1, tzinfo=UTC)
    with Session(engine) as session, session.begin():
        for hour, (name, worker) in enumerate([("old", "a"), ("new", "a"), ("elsewhere", "b")]):
            told = {"state": State.TRAINING, "intent": Intent.RUN, "attempt": 1, "holder": worker, "lease_until": lease}
            run = Run(name=name, recipe={}, model={}, data=[], **told)
            session.add(run)
            session.flush()
            began = lease + timedelta(hours=hour)
            session.add(Attempt(run_id=run.id, number=1, worker=worker, device="cuda:0", started_at=began))
    db.migrate(database_url)
    with Session(engine) as session:
        found = select(Run.name, Attempt.cause).join(Attempt, Attempt.run_id == Run.id).order_by(Attempt.started_at)
        assert [tuple(row) for row in session.execute(found)] == [("old", "lost"), ("new", None), ("elsewhere", None)]
    engine.dispose()


def test_two_processes_that_start_together_wait_for_each_other(database_url: str) -> None:
    db.migrate(database_url, "base")
    program = "import os; from backend.core.db import migrate; migrate(os.environ['DATABASE_URL'])"
    environment = {**os.environ, "DATABASE_URL": database_url}
    both = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert tables(database_url) == set(Base.metadata.tables)
