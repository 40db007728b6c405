"""What a part has open when its studio is at rest, and has no use for then; what lies there that no row names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import leftovers
from tests.faults.leftovers import Named
from tests.faults.parts import Part, Studio

OBEDIENT = """
import os, socket, sys
kept = [open("logs/its.log", "ab"), open("run/its.lock", "ab")]
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Obedient(Part):
    """A part that does what it is told, in Python, and keeps what it puts into `kept`."""

    def tell(self, line: str) -> None:
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline() == b"done\n"


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Obedient]:
    command = [sys.executable, "-c", OBEDIENT]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    for folder in ("logs", "run"):
        (tmp_path / folder).mkdir()
    part = Obedient(
        "celery-a", lambda: subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=nothing)
    )
    part.start()
    part.tell("pass")
    yield part
    part.kill()


@pytest.mark.parametrize(
    ("spared", "leaked", "what"),
    [
        ("kept.append(open('logs/its.log', 'ab'))", "kept.append(open('logs/its.log', 'ab'))", "3 of {}/logs/its.log"),
        ("open('rows.json', 'ab')", "kept.append(open('rows.json', 'ab'))", "1 of {}/rows.json"),
        (
            "open('run/gone', 'ab')",
            "kept.append(open('run/gone')); os.unlink('run/gone')",
            "1 of {}/run/gone (deleted)",
        ),
        ("kept += [socket.socket() for _ in range(4)]", "kept.append(socket.socket())", "8 of socket"),
        ("kept += os.pipe() + os.pipe()", "kept += os.pipe()", "8 of pipe"),
    ],
)
def test_what_a_part_has_no_use_for_at_rest_is_named(
    tmp_path: Path, part: Obedient, spared: str, leaked: str, what: str
) -> None:
    studio = Studio(tmp_path, {})
    studio.parts["celery-a"] = part
    part.tell("kept += [socket.socket() for _ in range(3)]")
    before = leftovers.kinds(studio)
    part.tell(spared)
    assert leftovers.of_processes(studio, before) == []
    part.tell(leaked)
    (found,) = leftovers.of_processes(studio, before)
    assert found.kind == "descriptor"
    assert found.what.startswith(f"{what.format(tmp_path)} in celery-a, ")


def test_what_a_part_had_open_before_the_first_fault_is_told_with_what_it_has_now(
    tmp_path: Path, part: Obedient
) -> None:
    studio = Studio(tmp_path, {})
    studio.parts["celery-a"] = part
    before = {"celery-a": Counter(socket=2)}
    part.tell("kept += [socket.socket() for _ in range(9)]")
    (found,) = leftovers.of_processes(studio, before)
    assert found.what == "9 of socket in celery-a, 2 before the first fault"


CHECKPOINT, ARTIFACT, ROWS = (
    "runs/1/attempt-1/checkpoints/checkpoint-4",
    "runs/1/attempt-1/artifacts/adapter",
    "datasets/ab/abc.parquet",
)
NAMED = Named(
    {CHECKPOINT, ARTIFACT},
    {ROWS},
    adoptable={"runs/1/attempt-3/checkpoints"},
    replaced={"runs/1/attempt-3/checkpoints/checkpoint-4"},
)


def lay(home: Path, *names: str) -> None:
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("bytes")


@pytest.mark.parametrize(
    "what",
    [
        "runs/1/attempt-1/artifacts/.tmp-merged",
        "datasets/ab/abd.parquet",
        "models/tiny/weights.partial",
        "runs/1/attempt-1/tmpab12",
        "a/tmp/merged",
        "b/run/tmpab12",
        "run/tmpab12",
    ],
)
def test_a_data_set_that_no_row_names_and_what_is_half_written_is_named(tmp_path: Path, what: str) -> None:
    lay(tmp_path, f"{CHECKPOINT}/manifest.json", f"{ARTIFACT}/adapter.safetensors", ROWS, "models/tiny/weights")
    lay(tmp_path, "runs/1/attempt-1/events.jsonl", "a/logs/worker.log", "b/run/supervisor-b.sock", "run/postgres.lock")
    assert list(leftovers.files(tmp_path, NAMED)) == []
    lay(tmp_path, what)
    assert [left.what for left in leftovers.files(tmp_path, NAMED)] == [what.removesuffix("/merged")]


@pytest.mark.parametrize(
    "folder",
    [
        "runs/1/attempt-1/checkpoints/checkpoint-8",
        "runs/1/attempt-1/checkpoints/left",
        "runs/1/attempt-2/artifacts/adapter",
        "runs/1/attempt-3/artifacts/adapter",
        "runs/1/attempt-3/checkpoints/checkpoint-4",
        "runs/2/attempt-3/checkpoints/checkpoint-12",
    ],
)
def test_checkpoints_and_artifacts_that_no_row_names_are_listed_unless_adoptable(tmp_path: Path, folder: str) -> None:
    half = f"{CHECKPOINT.replace('checkpoint-4', '.tmp-checkpoint-8')}/manifest.json"
    lay(tmp_path, f"{CHECKPOINT}/manifest.json", f"{ARTIFACT}/adapter.safetensors", half)
    lay(tmp_path, "runs/1/attempt-3/checkpoints/checkpoint-12/manifest.json")
    assert leftovers.unnamed_folders(tmp_path, NAMED) == []
    lay(tmp_path, f"{folder}/file")
    assert leftovers.unnamed_folders(tmp_path, NAMED) == [folder]


@pytest.mark.parametrize("name", ["9.json", "9.part", "9.draft", "9.body", "fresh.parquet", "anything"])
def test_of_what_was_received_only_words_of_what_became_and_what_killed_readers_left_may_stay(
    tmp_path: Path, name: str
) -> None:
    lay(tmp_path, *(f"uploads/7.{suffix}" for suffix in ("became", "json", "part")), "uploads/old.parquet")
    started = time.time() - 60
    os.utime(tmp_path / "uploads" / "old.parquet", (started - 1, started - 1))
    assert list(leftovers.uploads(tmp_path, started)) == []
    lay(tmp_path, f"uploads/{name}")
    assert [left.what for left in leftovers.uploads(tmp_path, started)] == [f"uploads/{name}"]


def test_a_scratch_file_that_outlives_the_studio_is_named(tmp_path: Path) -> None:
    studio = Studio(tmp_path, {})
    lay(tmp_path, "scratch/torchinductor_ada/kept")
    assert leftovers.after_the_end(studio) == []
    lay(tmp_path, "scratch/tmp123")
    assert [(left.kind, left.what) for left in leftovers.after_the_end(studio)] == [("file", "scratch/tmp123")]
