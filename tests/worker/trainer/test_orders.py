"""Pause, keep, SIGTERM, and changes in mid-run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.core.assignment import ASSIGNMENT, CONTROL, JOURNAL, Amendment, Word
from backend.core.checkpoints import verify
from tests.support.rows import chat_rows, write_rows
from tests.worker.trainer.conftest import Attempt, Attempts
from worker.trainer.control import Channel

ENDLESS = {"training": {"max_steps": 100_000}, "evaluation": {"eval_steps": 90_000, "sample_steps": 90_000}}


def wait_until(attempt: Attempt, happened: Callable[[str], bool]) -> None:
    journal = attempt.folder / JOURNAL
    deadline = time.monotonic() + 60
    while not (journal.exists() and happened(journal.read_text())):
        assert time.monotonic() < deadline, "the trainer did not get there in a minute"
        time.sleep(0.02)


def has_trained(text: str) -> bool:
    return text.count('"metrics"') >= 3


def test_pause_saves_and_ends_paused(attempts: Attempts) -> None:
    attempt = attempts(ENDLESS)
    attempt.trainers.start(attempt.folder / ASSIGNMENT)
    wait_until(attempt, has_trained)
    attempt.order(Word.PAUSE)
    assert attempt.trainers.wait() == 0
    assert attempt.end == {"outcome": "paused"}
    step = max(attempt.losses())
    assert attempt.saved_steps[-1] == step
    assert verify(attempt.checkpoint(step).folder) == []
    assert attempt.data("artifact") == []


LOOKS: dict[str, dict[str, Any]] = {
    "evaluating": {"eval_share": 0.5, "eval_steps": 5, "sample_steps": 5},
    "sampling": {"eval_steps": 5, "sample_steps": 5, "max_new_tokens": 60, "prompts": [f"Owl {n}?" for n in range(6)]},
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_pause_cuts_a_look_at_the_model_off_and_a_resume_makes_up_for_it(
    attempts: Attempts, tmp_path: Path, look: str
) -> None:
    write_rows(tmp_path / "rows.parquet", chat_rows(600))
    recipe = {"training": {"per_device_train_batch_size": 1}, "evaluation": LOOKS[look]}
    whole = attempts(recipe)
    assert whole.run() == 0
    cut_off = attempts(recipe)
    cut_off.trainers.start(cut_off.folder / ASSIGNMENT)
    wait_until(cut_off, lambda text: '"step":5' in text.replace(" ", ""))
    cut_off.order(Word.PAUSE)
    assert cut_off.trainers.wait() == 0
    assert cut_off.end == {"outcome": "paused"}
    assert cut_off.saved_steps[-1] == 5, "no further step was trained"
    first = cut_off.history()
    assert first != {key: value for key, value in whole.history().items() if key[0] <= 5}, "the look was cut off"
    resumed = attempts(recipe, resume=cut_off.checkpoint(5))
    assert resumed.run() == 0
    assert first | resumed.history() == whole.history()


def test_a_keep_in_the_midst_of_an_evaluation_ends_the_run_with_that_step(attempts: Attempts, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", chat_rows(600))
    attempt = attempts(ENDLESS | {"evaluation": LOOKS["evaluating"] | {"prompts": ["Who?"]}})
    attempt.trainers.start(attempt.folder / ASSIGNMENT)
    wait_until(attempt, lambda text: '"step":5' in text.replace(" ", ""))
    attempt.order(Word.KEEP)
    assert attempt.trainers.wait() == 0
    assert max(attempt.losses()) == 5
    assert [(sample["step"], sample["prompt"]) for sample in attempt.data("sample")][-1] == (5, "Who?")
    assert [artifact["kind"] for artifact in attempt.data("artifact")] == ["adapter", "merged"]


def test_keep_saves_and_exports_and_the_run_can_go_on_from_there(attempts: Attempts) -> None:
    attempt = attempts(ENDLESS)
    attempt.trainers.start(attempt.folder / ASSIGNMENT)
    wait_until(attempt, has_trained)
    attempt.order(Word.KEEP)
    assert attempt.trainers.wait() == 0
    assert attempt.end == {"outcome": "done"}
    step = max(attempt.losses())
    assert [artifact["kind"] for artifact in attempt.data("artifact")] == ["adapter", "merged"]
    assert [m["step"] for m in attempt.data("metrics") if "eval_loss" in m["values"]][-1] == step
    further = attempts({"training": {"max_steps": step + 2}}, resume=attempt.checkpoint(step))
    assert further.run() == 0
    assert sorted(further.losses()) == [step + 1, step + 2]


@pytest.mark.parametrize(("word", "outcome"), [(Word.PAUSE, "paused"), (Word.KEEP, "empty")])
def test_before_the_first_step_there_is_nothing_to_save(attempts: Attempts, word: Word, outcome: str) -> None:
    attempt = attempts()
    attempt.order(word)
    assert attempt.run() == 0
    assert attempt.end == {"outcome": outcome}
    assert attempt.losses() == {}
    assert attempt.saved_steps == []


def test_a_run_told_to_keep_while_it_lay_still_exports_its_checkpoint_at_once(attempts: Attempts) -> None:
    first = attempts()
    assert first.run() == 0
    kept = attempts(resume=first.checkpoint(4), word=Word.KEEP)
    assert kept.run() == 0
    assert kept.losses() == {}
    assert [artifact["kind"] for artifact in kept.data("artifact")] == ["adapter", "merged"]
    assert kept.end == {"outcome": "done"}


def test_a_run_that_died_while_exporting_exports_without_training_again(attempts: Attempts) -> None:
    first = attempts()
    assert first.run() == 0
    again = attempts(resume=first.checkpoint(10))
    assert again.run() == 0
    assert again.losses() == {}
    assert again.end == {"outcome": "done"}


def test_the_end_of_the_host_is_a_pause(attempts: Attempts, tmp_path: Path) -> None:
    attempt = attempts(ENDLESS)
    environment = os.environ | {"STUDIO_RUN_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "worker.trainer", str(attempt.folder / ASSIGNMENT)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    wait_until(attempt, has_trained)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert attempt.end == {"outcome": "paused"}
    assert attempt.saved_steps[-1] == max(attempt.losses())


def change(sequence: int, field: str, value: object, step: int | None = None) -> Amendment:
    return Amendment.model_validate({"sequence": sequence, "field": field, "value": value, "step": step})


def test_a_change_holds_from_its_step_on_and_is_told_before_that_steps_metrics(attempts: Attempts) -> None:
    plain, changed = attempts(), attempts(amendments=[change(1, "training.learning_rate", 1e-4, step=6)])
    assert plain.run() == changed.run() == 0
    rates = [
        {m["step"]: m["values"]["learning_rate"] for m in a.data("metrics") if "loss" in m["values"]}
        for a in (plain, changed)
    ]
    assert [step for step in rates[0] if rates[0][step] != rates[1][step]] == [6, 7, 8, 9, 10]
    assert rates[1][6] == pytest.approx(rates[0][6] / 10)
    told = next(n for n, line in enumerate(changed.lines) if line["kind"] == "amended")
    assert changed.lines[told]["data"] == {"sequence": 1}
    assert changed.lines[told]["step"] == 6
    assert [line["step"] for line in changed.lines[:told] if line["kind"] == "metrics"][-1] == 5


def test_a_resumed_run_applies_its_changes_where_they_held(attempts: Attempts) -> None:
    changes = [
        change(1, "training.learning_rate", 3e-3, step=3),
        change(2, "training.max_steps", 12, step=7),
        change(3, "evaluation.prompts", ["Describe the frog."], step=7),
    ]
    whole = attempts(amendments=changes)
    assert whole.run() == 0
    assert max(whole.losses()) == 12
    for step in (4, 8):
        resumed = attempts(amendments=changes, resume=whole.checkpoint(step))
        assert resumed.run() == 0
        assert resumed.history() == {key: value for key, value in whole.history().items() if key[0] > step}


def test_a_change_that_comes_in_mid_run_is_taken_at_the_next_boundary(attempts: Attempts) -> None:
    attempt = attempts(ENDLESS)
    attempt.trainers.start(attempt.folder / ASSIGNMENT)
    wait_until(attempt, has_trained)
    attempt.tell(kind="change", amendment=change(1, "evaluation.prompts", ["Who?"]).model_dump())
    wait_until(attempt, lambda text: '"amended"' in text)
    attempt.tell(kind="change", amendment=change(2, "training.learning_rate", "fast").model_dump())
    attempt.tell(kind="change", amendment=change(3, "training.max_steps", 1).model_dump())
    assert attempt.trainers.wait() == 0
    amended = attempt.data("amended")
    assert [line["sequence"] for line in amended] == [1, 3]
    assert "training.learning_rate: 'fast' cannot be the new value." in attempt.data("log")[-1]["text"]
    assert attempt.data("sample")[-1]["prompt"] == "Who?"
    assert max(attempt.losses()) == amended[-1]["step"]


def test_a_line_that_cannot_be_read_hides_no_word_after_it(tmp_path: Path) -> None:
    path = tmp_path / CONTROL
    path.write_bytes(b'{"kind":"ord{"kind":"order","word":"pause"}\n\xff\n{"kind":"order","word":"keep"}\n')
    assert Channel(path).word is Word.KEEP
