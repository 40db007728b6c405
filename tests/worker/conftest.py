"""A lab: a database, a Valkey, a home with a tiny base model and a data set."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.core import db
from tests.support.hosts import Lab, write_rows


@pytest.fixture
def lab(database_url: str, valkey_url: str, studio_home: Path, tiny_base: Path) -> Iterator[Lab]:
    shutil.copytree(tiny_base, studio_home / "models" / "tiny")
    write_rows(studio_home / "datasets" / "owls.parquet")
    engine = db.engine(database_url)
    yield Lab(studio_home, database_url, valkey_url, engine)
    engine.dispose()
