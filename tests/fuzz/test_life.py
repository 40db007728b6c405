"""The life of a run, in every order that chance brings."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy.orm import Session

from backend.core import db, runs
from backend.core.models import Run
from tests.fuzz.life import RunLife
from tests.fuzz.machines import SHORT


def test_a_run_lives_as_the_model_says_whatever_happens_in_whatever_order(database_url: str) -> None:
    engine = db.engine(database_url)
    run_state_machine_as_test(type("Life", (RunLife,), {"engine": engine}), settings=SHORT)
    engine.dispose()


def test_a_fence_that_lets_a_replaced_attempt_write_is_noticed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that passes whatever the code does would prove nothing."""

    def without_a_fence(session: Session, token: runs.Token) -> Run:
        return runs.lock(session, token.run_id)

    monkeypatch.setattr(runs, "hold", without_a_fence)
    engine = db.engine(database_url)
    machine = type("Life", (RunLife,), {"engine": engine})
    few = settings(SHORT, max_examples=30, phases=(Phase.generate,))
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        run_state_machine_as_test(machine, settings=few)
    engine.dispose()
