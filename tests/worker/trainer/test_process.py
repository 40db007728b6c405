"""The trainer as the supervisor meets it: a spare that waits, one accelerator at a time, no orphan."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from backend.core.assignment import ASSIGNMENT, JOURNAL
from tests.worker.trainer.conftest import Attempts
from worker.trainer.parent import PARENT
from worker.trainer.process import lock_name

SPARE = [sys.executable, "-W", "ignore", "-m", "worker.trainer"]


def environment(run_directory: Path) -> dict[str, str]:
    return os.environ | {"STUDIO_RUN_DIR": str(run_directory), "OMP_NUM_THREADS": "1"}


def spare(run_directory: Path) -> subprocess.Popen[str]:
    """A spare that has said that it is ready."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        SPARE, env=environment(run_directory), stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_spare_waits_for_its_assignment_and_begins_at_once(attempts: Attempts, tmp_path: Path) -> None:
    attempt = attempts({"training": {"max_steps": 2}})
    process = spare(tmp_path)
    assert process.stdin is not None
    given = time.time()
    process.stdin.write(f"{attempt.folder / ASSIGNMENT}\n")
    process.stdin.flush()
    assert process.wait(60) == 0
    assert attempt.end == {"outcome": "done"}
    assert attempt.lines[0]["t"] - given < 1.0


def test_a_spare_whose_pipe_closes_leaves(tmp_path: Path) -> None:
    process = spare(tmp_path)
    process.communicate()
    assert process.returncode == 0


def test_a_trainer_dies_with_its_parent(tmp_path: Path) -> None:
    script = "import subprocess, sys, time; p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)"
    script += "; p.stdout.readline(); print(p.pid, flush=True); time.sleep(600)"
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *SPARE], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    trainer = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{trainer}/stat").exists() and "Z" not in Path(f"/proc/{trainer}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the trainer outlived its parent"
        time.sleep(0.05)


def test_a_trainer_whose_parent_died_before_it_began_does_not_begin(tmp_path: Path) -> None:
    """Else it would import for seconds before it finds that its pipe is closed."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    late = environment(tmp_path) | {PARENT: str(gone.pid)}
    process = subprocess.Popen(SPARE, env=late, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    said, _ = process.communicate()
    assert (process.returncode, said) == (1, b"")


def test_a_second_trainer_waits_for_the_accelerator_and_says_so(attempts: Attempts) -> None:
    attempt = attempts({"training": {"max_steps": 1}, "evaluation": {"prompts": []}})
    with open(attempt.trainers.run_directory / lock_name("cpu"), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        attempt.trainers.start(attempt.folder / ASSIGNMENT)
        journal = attempt.folder / JOURNAL
        deadline = time.monotonic() + 20
        while not (journal.exists() and "Waiting for cpu" in journal.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert attempt.trainers.wait() == 0
    assert [phase["phase"] for phase in attempt.data("phase")][:3] == ["loading", "loading", "preparing"]


def test_a_trainer_needs_neither_the_web_nor_any_service_nor_its_client(tmp_path: Path) -> None:
    script = """
import importlib.machinery, json, sys
BLOCKED = {"fastapi", "starlette", "psycopg", "sqlalchemy", "redis", "celery"}

class Block(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Block
from worker.trainer.process import freeze_environment, import_heavy
freeze_environment()
import_heavy()
import torch
print(json.dumps({"modules": sorted(sys.modules), "cuda": torch.cuda.is_initialized()}))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment(tmp_path), stdout=subprocess.PIPE, text=True, check=True
    )
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["cuda"] is False
    assert "torch._inductor.compile_fx" not in told["modules"], "a compiler that nothing here uses"
    assert not any(
        module.startswith(("backend.web", "backend.embedded", "backend.core.db")) for module in told["modules"]
    )
