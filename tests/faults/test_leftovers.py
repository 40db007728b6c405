"""What a part has open when its studio is at rest, and has no use for then."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import leftovers
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
        ("kept += [socket.socket() for _ in range(20)]", "kept.append(socket.socket())", "21 of socket"),
        ("kept += os.pipe() + os.pipe() + os.pipe()", "kept += os.pipe()", "10 of pipe"),
    ],
)
def test_what_a_part_has_no_use_for_at_rest_is_named(
    tmp_path: Path, part: Obedient, spared: str, leaked: str, what: str
) -> None:
    studio = Studio(tmp_path, {})
    studio.parts["celery-a"] = part
    part.tell(spared)
    assert leftovers.at_rest(studio, 0) == []
    part.tell(leaked)
    (found,) = leftovers.at_rest(studio, 0)
    assert (found.kind, found.what) == ("descriptor", f"{what.format(tmp_path)} in celery-a")
