"""Labs by the dozen: each with a database and a home of its own, side by side or one for a whole file of tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from backend.core import db
from backend.core.settings import Settings
from backend.embedded.service import Service
from tests.support.databases import fresh_database
from tests.support.homes import short_home
from tests.support.hosts import Lab, write_rows

USUAL = {
    f"STUDIO_{name.upper()}": str(Settings.model_fields[name].default) for name in ("lease_seconds", "renew_seconds")
}
"""How often a host looks and how long a lease lasts by default; in a lab both are shorter."""
MakeLab = Callable[[], AbstractContextManager[Lab]]


@pytest.fixture(scope="session")
def make_lab(postgres_server: Service, database_template: str, valkey_server: Service, tiny_base: Path) -> MakeLab:
    """A database and a home with the tiny model and a data set; nothing of it is left running at its end."""

    @contextmanager
    def made() -> Iterator[Lab]:
        with short_home() as home, fresh_database(postgres_server, database_template) as database_url:
            shutil.copytree(tiny_base, home / "models" / "tiny")
            write_rows(home / "datasets" / "owls.parquet")
            engine = db.engine(database_url)
            yield Lab(home, database_url, valkey_server.url, engine)
            engine.dispose()

    return made
