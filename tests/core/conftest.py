"""A database session, and runs to play with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from backend.core import db, runs
from backend.core.models import Run
from backend.core.recipe import read_recipe

RECIPE = {"name": "owls", "model": "tiny", "data": {"sets": ["owls"]}, "method": "lora"}
Sessions = sessionmaker[Session]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = db.engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def sessions(engine: Engine) -> Sessions:
    return sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def new_run(sessions: Sessions) -> Callable[[], Run]:
    def make() -> Run:
        with sessions.begin() as session:
            recipe = read_recipe(RECIPE).recipe
            return runs.create(session, recipe=recipe, model={"path": "tiny", "revision": None}, data=[])

    return make
