"""When things happen in a run, and what changes in mid-run make of it."""

from __future__ import annotations

from typing import Any

from backend.core.assignment import Amendment, LineKind
from backend.core.outlook import whole_pass
from tests.worker.trainer.conftest import Attempts
from worker.trainer.plan import Amendments


def change(sequence: int, value: Any, step: int | None = None) -> Amendment:
    return Amendment(sequence=sequence, field="training.learning_rate", value=value, step=step)


def test_a_change_holds_again_from_the_step_that_was_told() -> None:
    amendments = Amendments([change(1, 0.1, step=15)])
    assert amendments.take(14) == []
    assert [each.value for each in amendments.take(15)] == [0.1]
    assert amendments.take(16) == []


def test_a_new_change_holds_as_soon_as_it_can() -> None:
    amendments = Amendments([])
    amendments.add([change(1, 0.1)])
    assert [each.sequence for each in amendments.take(3)] == [1]


def test_after_going_back_an_older_change_does_not_undo_a_newer_one() -> None:
    amendments = Amendments([change(1, 0.1, step=15)])
    amendments.add([change(2, 0.2)])
    assert [each.value for each in amendments.take(11)] == [0.2]
    assert amendments.take(15) == []


def test_a_pass_has_as_many_steps_in_its_midst_as_at_its_end(attempts: Attempts) -> None:
    three = attempts({"training": {"max_steps": -1, "num_train_epochs": 3, "gradient_accumulation_steps": 5}})
    assert three.run() == 0
    told = [(line["step"], line["data"]["epoch"]) for line in three.lines if line["kind"] == LineKind.METRICS]
    assert any(step / epoch < whole_pass(step, epoch) - 0.01 for step, epoch in told), "each step takes as many batches"
    assert {3 * whole_pass(step, epoch) for step, epoch in told} == {told[-1][0]}
