"""Run real trainers in processes of their own without importing torch for each.

One process imports everything and forks a child for each run, as `python -m tests.support.trainers`: it reads one JSON line a
run, `{"assignment": path, "die": "micro-step:7" | "saving:8" | null, "memory_mib": n | null}`, and answers with the exit status.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KILLED = 137


class Trainers:
    """The process that forks trainers, as a test talks to it."""

    def __init__(self, run_directory: Path) -> None:
        self.run_directory = run_directory
        environment = os.environ | {"STUDIO_RUN_DIR": str(run_directory), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-m", "tests.support.trainers"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)

    def start(self, assignment: Path, **options: Any) -> None:
        """Start a run without waiting for its end."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"assignment": str(assignment)} | options) + "\n")
        self.process.stdin.flush()

    def wait(self) -> int:
        """The exit status of the run that was started."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def run(self, assignment: Path, **options: Any) -> int:
        self.start(assignment, **options)
        return self.wait()

    def stop(self) -> None:
        self.process.communicate()


def serve() -> None:
    from worker.trainer.process import freeze_environment, import_heavy

    freeze_environment()
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    import_heavy()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_one_run(**json.loads(line)))
        _, status = os.waitpid(child, 0)
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _one_run(assignment: str, die: str | None = None, memory_mib: int | None = None) -> int:
    from worker.trainer.train import carry_out

    if die:
        _arrange_death(*die.split(":"))
    if memory_mib:
        # What is written to, not what is reserved: a thread reserves more address space than this test allows.
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        limit = used + memory_mib * 1024**2
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return carry_out(Path(assignment))


def _arrange_death(moment: str, number: str) -> None:
    """`micro-step:n` dies behind the n-th backward pass of this process; `saving:s` in the midst of saving step s."""
    from worker.trainer import checkpoints, fit

    if moment == "micro-step":
        count, step = 0, fit.StudioTrainer.training_step

        def training_step(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            loss = step(*arguments, **named)
            count += 1
            return os._exit(KILLED) if count == int(number) else loss

        fit.StudioTrainer.training_step = training_step  # type: ignore[method-assign]
    else:
        write = vars(checkpoints)["write_manifest"]
        dies = lambda folder, step: os._exit(KILLED) if step == int(number) else write(folder, step)  # noqa: E731
        vars(checkpoints)["write_manifest"] = dies


if __name__ == "__main__":
    serve()
