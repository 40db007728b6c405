"""`python -m tests.faults.feeding`: a worker host whose trainers write numbers instead of training.

The supervisor is the real one, and so are the journal, its tail, leases, fences and bells. The host has as many accelerators
as it has runs to feed, which nobody ever made.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from backend.core.assignment import JOURNAL, Assignment, Outcome
from tests.faults.planted import TRAINER, start_trainers_as
from worker import devices
from worker.trainer.journal import Journal
from worker.trainer.parent import die_with_parent, watch_stdin

MODULE = "tests.faults.feeding"
RATE = "FEEDING_RATE"
"""Names in the environment how many points a second each trainer writes."""
FED_RUNS = 4
STEPS_A_SECOND = 10


def feed() -> int:
    """A trainer: write a step ten times a second, until it is told to end."""
    die_with_parent()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        return 0
    watch_stdin()
    names = [f"metric {number}" for number in range(round(float(os.environ[RATE]) / STEPS_A_SECOND))]
    folder = Assignment.model_validate_json(Path(line.strip()).read_bytes()).folder
    with Journal(folder / JOURNAL) as journal:
        journal.phase("training")
        due = time.monotonic()
        while not ended.wait(max(0.0, due - time.monotonic())):
            journal.step += 1
            journal.metrics(dict.fromkeys(names, float(journal.step % 100)), epoch=0.0)
            due += 1 / STEPS_A_SECOND
        journal.end(Outcome.PAUSED)
    return 0


def invented(_wanted: str, _driver: devices.Driver) -> tuple[devices.Accelerator, ...]:
    return tuple(devices.Accelerator(f"cpu:{number}", "none", 1 << 30) for number in range(FED_RUNS))


def main() -> int:
    if sys.argv[-1] == TRAINER:
        return feed()
    from worker import supervisor

    vars(devices)["found"] = invented
    start_trainers_as(MODULE)
    supervisor.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
