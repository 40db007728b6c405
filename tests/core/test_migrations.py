"""The schema goes up and down, and is what the code believes it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from backend.core import db
from backend.core.models import Base

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


def test_two_processes_that_start_together_wait_for_each_other(database_url: str) -> None:
    db.migrate(database_url, "base")
    program = "import os; from backend.core.db import migrate; migrate(os.environ['DATABASE_URL'])"
    environment = {**os.environ, "DATABASE_URL": database_url}
    both = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert tables(database_url) == set(Base.metadata.tables)
