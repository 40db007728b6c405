"""A trainer that can have no more memory, and one that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psutil
import pytest

from backend.core import runs
from backend.core.assignment import JOURNAL
from backend.core.models import State
from tests.support.hosts import Lab, write_rows
from tests.support.labs import MakeLab

MIB = 1 << 20
PATIENCE_SECONDS = 300.0
QUIET: dict[str, Any] = {"prompts": [], "eval_steps": 90_000, "sample_steps": 90_000}


@pytest.fixture
def lab(make_lab: MakeLab) -> Iterator[Lab]:
    with make_lab() as lab:
        yield lab


def encoding_trainer_of(lab: Lab, run_id: UUID) -> psutil.Process:
    """As soon as it has loaded the model and rendered its first rows, which would else be what memory lacks for."""
    told = lab.home / "runs" / str(run_id) / "attempt-1" / JOURNAL
    encodes = lambda: told.exists() and '"what": "preparing"' in told.read_text()  # noqa: E731
    lab.wait(encodes, "the trainer", PATIENCE_SECONDS)
    return psutil.Process(lab.trainer_of(run_id))


def allow_more_memory(process: psutil.Process, mib: int) -> None:
    """So much beside what it has by now. A trainer sets the limit of its data itself, each time that it renders a row."""
    limit = process.memory_info().vms + mib * MIB
    process.rlimit(psutil.RLIMIT_AS, (limit, limit))


def test_a_batch_that_does_not_fit_ends_the_run_with_advice_and_is_not_tried_again(lab: Lab) -> None:
    write_rows(lab.home / "datasets" / "many.parquet", 40_000)  # encoding them leaves time to take memory away
    batch = {"per_device_train_batch_size": 2048, "gradient_accumulation_steps": 1, "max_steps": 10}
    with lab.host():
        run_id = lab.launch(rows="many", training=batch, evaluation=QUIET)
        allow_more_memory(encoding_trainer_of(lab, run_id), 300)
        run = lab.wait_for(run_id, State.FAILED, seconds=PATIENCE_SECONDS)
    assert run.cause is not None
    assert run.cause["code"] == "out_of_memory"
    assert run.cause["message"].startswith("Out of memory at step 1: batch 2048 × ")
    assert run.cause["hint"] == "Try batch 1024 with twice the accumulation, gradient checkpointing, or QLoRA."
    assert (run.attempt, run.crashes) == (1, 0), "no blind retry"


def test_a_trainer_that_stands_still_is_killed_by_the_deadline_of_its_phase_and_the_run_goes_on(lab: Lab) -> None:
    lab.environment["STUDIO_TRAINING_SILENCE_SECONDS"] = "20"
    endless = {"max_steps": 100_000, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    with lab.host():
        run_id = lab.launch(training=endless, evaluation=QUIET)
        lab.wait_for_step(run_id, 3, PATIENCE_SECONDS)
        psutil.Process(lab.trainer_of(run_id)).suspend()
        lab.wait(lambda: lab.run(run_id).begun == 2, "another trainer", PATIENCE_SECONDS)
        lab.wait_for_step(run_id, 5, PATIENCE_SECONDS)
        with lab.sessions.begin() as session:
            runs.stop(session, run_id, keep=False)
    first, _second = lab.attempts(run_id)
    assert first.cause == "It was killed, since nothing had moved in it for 20 seconds."
