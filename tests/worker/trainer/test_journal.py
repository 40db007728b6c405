"""The journal is strict JSON, whole lines, and never silent for long."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from backend.core.assignment import Change, Line, LineKind, Order, Outcome, Word
from backend.core.errors import Invalid
from tests.support.processes import wait_until
from worker.trainer.control import Channel
from worker.trainer.journal import Journal


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_lines_are_numbered_and_what_is_not_finite_stays_visible(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        journal.phase("training")
        journal.step = 7
        journal.metrics(
            {"loss": float("nan"), "grad_norm": float("inf"), "other": float("-inf"), "fine": 0.1}, epoch=0.5
        )
        journal.end(Outcome.FAILED, Invalid("It broke.", code="broken", hint="Mend it."))
    first, metrics, end = (Line.model_validate(line) for line in lines(path))
    assert [first.n, metrics.n, end.n] == [0, 1, 2]
    assert metrics.step == 7
    assert metrics.data["values"] == {"loss": "NaN", "grad_norm": "Infinity", "other": "-Infinity", "fine": 0.1}
    assert end.data["cause"] == {"code": "broken", "message": "It broke.", "hint": "Mend it."}


def test_silence_is_broken_by_a_heartbeat_that_says_how_long_nothing_moved(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path, heartbeat_seconds=0.2) as journal:
        journal.phase("loading")
        time.sleep(0.8)
    beats = [line["data"] for line in lines(path) if line["kind"] == LineKind.PROGRESS]
    assert len(beats) >= 2
    assert {beat["what"] for beat in beats} == {"loading"}
    assert beats[-1]["idle_seconds"] >= 0.4


IDLE = """
import sys, time
from pathlib import Path
from backend.core import awake
from worker.trainer.journal import Journal

awake.GAP_SECONDS = 1.0
with Journal(Path(sys.argv[1]), heartbeat_seconds=0.2) as journal:
    journal.phase("loading")
    time.sleep(6)
"""


def test_what_stood_still_as_a_whole_was_not_idle_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    process = subprocess.Popen([sys.executable, "-c", IDLE, path])
    wait_until(lambda: path.exists() and bool(lines(path)), seconds=30)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4.8)
    process.send_signal(signal.SIGCONT)
    assert process.wait(30) == 0
    beats = [line["data"]["idle_seconds"] for line in lines(path) if line["kind"] == LineKind.PROGRESS]
    assert max(beats) < 3


def test_progress_told_often_is_written_once_a_second(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        for done in range(1, 1001):
            journal.progress("evaluating", done, 1000)
    assert [line["data"]["done"] for line in lines(path)] == [1000]


def test_another_attempts_journal_is_never_continued(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("{}\n")
    with pytest.raises(FileExistsError):
        Journal(path)


def test_the_control_channel_hears_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "control.jsonl"
    channel = Channel(path)
    assert channel.word is None
    change = Change.model_validate(
        {"amendment": {"sequence": 1, "field": "training.learning_rate", "value": 1e-4}}
    ).model_dump_json()
    order = Order(word=Word.PAUSE).model_dump_json()
    path.write_text(f"{change}\n{order[:10]}")
    assert channel.word is None
    path.write_text(f"{change}\n{order}\n")
    assert channel.word is Word.PAUSE
    assert [change.sequence for change in channel.take_changes()] == [1]
    assert channel.take_changes() == []


def test_keep_is_not_taken_back_by_a_pause(tmp_path: Path) -> None:
    path = tmp_path / "control.jsonl"
    path.write_text("".join(Order(word=word).model_dump_json() + "\n" for word in (Word.KEEP, Word.PAUSE)))
    assert Channel(path).word is Word.KEEP


def test_metrics_are_written_soon_by_themselves_and_always_before_what_is_told_later(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        for journal.step in range(1, 50):
            journal.metrics({"loss": 1 / journal.step}, epoch=0.0)
        journal.log("info", "after step 49")
        assert [line["step"] for line in lines(path)] == [*range(1, 50), 49]
        journal.step = 50
        journal.metrics({"loss": 0.02}, epoch=0.0)
        wait_until(lambda: len(lines(path)) == 51, seconds=20, what="the last step's line")
        journal.step = 51
        journal.metrics({"loss": 0.01}, epoch=0.0)
        journal.copy_to(tmp_path / "copy.jsonl")
    assert lines(tmp_path / "copy.jsonl") == lines(path)
    assert [line["n"] for line in lines(path)] == list(range(52))


def test_metrics_that_cannot_be_written_are_an_error_and_are_kept_for_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    theirs = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Journal(path) as journal:
            journal.phase("training")
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, before[1]))
            journal.metrics({"loss": 1.0}, epoch=0.0)
            with pytest.raises(OSError, match="File too large"):
                tell_until_refused(journal)
            told = lines(path)
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            journal.end(Outcome.FAILED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, theirs)
    assert [line["kind"] for line in told] == [LineKind.PHASE], "no half line"
    kinds = [line["kind"] for line in lines(path)]
    assert kinds == [LineKind.PHASE, *[LineKind.METRICS] * (len(kinds) - 2), LineKind.END]


def test_what_no_line_can_hold_ends_the_training_instead_of_being_lost_in_silence(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    journal.step = cast("int", "no number")
    with pytest.raises(ValidationError):
        tell_until_refused(journal)
    with pytest.raises(ValidationError), journal:
        pass
    os.close(journal._descriptor)


def test_a_step_does_not_wait_while_the_disk_stands_still(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    os.mkfifo(path)  # a file that takes no more until somebody reads
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    journal = Journal(path)
    journal.metrics({"x" * 1_000_000: 1.0}, epoch=0.0)
    wait_until(lambda: journal._lock.locked(), seconds=20, what="a write that waits")
    for journal.step in range(1, 100):
        journal.metrics({"loss": 1.0}, epoch=0.0)
    assert journal._lock.locked(), "the write waits still, and no step did"
    os.close(reader)
    with pytest.raises(OSError, match="Invalid argument"), journal:  # what is no file cannot be cut back
        pass
    os.close(journal._descriptor)


def tell_until_refused(journal: Journal) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        journal.metrics({"loss": 1.0}, epoch=0.0)
        time.sleep(0.02)
