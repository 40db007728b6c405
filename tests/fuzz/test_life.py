"""The life of a run, in every order that chance brings."""

from __future__ import annotations

from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine

from backend.core import db
from tests.fuzz.life import RunLife
from tests.fuzz.machines import SHORT


def test_a_run_lives_as_the_model_says_whatever_happens_in_whatever_order(database_url: str) -> None:
    engine: Engine = db.engine(database_url)
    run_state_machine_as_test(type("Life", (RunLife,), {"engine": engine}), settings=SHORT)
    engine.dispose()
