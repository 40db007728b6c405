"""Trainer processes: started ahead of time, given one assignment each, killed as a group."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Container
from pathlib import Path

from backend.core.settings import Settings
from worker.trainer.parent import PARENT

log = logging.getLogger(__name__)

SECRETS = re.compile(r"(STUDIO_)?(DATABASE|REDIS)_URL|PGPASS.*|(.+_)?(TOKEN|PASSWORD|SECRET|API_KEY|ACCESS_KEY(_ID)?)")
"""What a trainer must not have: it runs no code of a user's, asks no service, and finds its model on the disk."""
PROCESS = "trainer.json"
KILL_SECONDS = 5.0
"""How long to wait for a killed trainer. One that hangs in a driver takes longer, but does nothing of its own any more."""


class Trainer:
    """One trainer process, in a session and process group of its own."""

    def __init__(self, settings: Settings) -> None:
        environment = {name: value for name, value in os.environ.items() if not SECRETS.fullmatch(name)}
        environment |= {"STUDIO_HOME": str(settings.root), "STUDIO_RUN_DIR": str(settings.folder("run"))}
        environment[PARENT] = str(os.getpid())
        with open(settings.folder("logs") / "trainer.log", "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker.trainer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    def assign(self, path: Path) -> None:
        """Hand over the assignment. Who it is stands beside it, so that a restarted supervisor can tell that it is dead."""
        about = {"pid": self.process.pid, "started": started_at(self.process.pid)}
        (path.parent / PROCESS).write_text(json.dumps(about))
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: the next look finds out
            self.process.stdin.write(f"{path}\n".encode())
            self.process.stdin.flush()

    @property
    def exit_code(self) -> int | None:
        return self.process.poll()

    def terminate(self) -> None:
        """Ask it to save and exit, as at the host's shutdown."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def kill(self, *, wait: bool = True) -> None:
        """End the whole group: data loaders as well."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # others' leases run meanwhile
            self.process.wait(KILL_SECONDS if wait else 0)


class OwnProcesses(Container[int]):
    """The trainers that this host ever had: one that was killed may hang in a driver for long. A number that somebody else
    has by now is not theirs."""

    def __init__(self) -> None:
        self._started: dict[int, str] = {}

    def note(self, pid: int) -> None:
        self._started[pid] = started_at(pid)

    def __contains__(self, pid: object) -> bool:
        if not isinstance(pid, int) or pid not in self._started:
            return False
        return started_at(pid) in (self._started[pid], "")  # a driver may name one that has just ended


class Spares:
    """Keeps one trainer that has imported everything and waits. Used from the supervisor's main thread alone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._spare: Trainer | None = None
        self._taken_at = -settings.spare_seconds
        self.taken = OwnProcesses()

    def keep(self) -> None:
        """Start a spare where there is none, a moment after the last one was taken: its imports cost a core for seconds."""
        if self._spare is not None and self._spare.exit_code is not None:
            log.warning("the spare trainer ended by itself (code %s)", self._spare.exit_code)
            self._spare, self._taken_at = None, time.monotonic()
        if self._spare is not None or time.monotonic() - self._taken_at < self._settings.spare_seconds:
            return
        try:
            self._spare = Trainer(self._settings)
        except OSError as error:
            log.warning("no spare trainer can be started: %s", error)
            self._taken_at = time.monotonic()

    def take(self) -> Trainer:
        trainer, self._spare = self._spare, None
        self._taken_at = time.monotonic()
        if trainer is None or trainer.exit_code is not None:
            trainer = Trainer(self._settings)
        self.taken.note(trainer.process.pid)
        return trainer

    def close(self) -> None:
        if self._spare is not None:
            self._spare.kill()
            self._spare = None


def started_at(pid: int) -> str:
    """What tells two processes with the same number apart: the start time that the kernel notes. Empty where none is told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def make_sure_it_is_dead(folder: Path) -> bool:
    """Kill what is left of the trainer whose attempt this was, and wait until it is gone. False where it does not go: one that
    hangs in a driver keeps its accelerator locked, and nothing that it still writes is taken."""
    try:
        about = json.loads((folder / PROCESS).read_text())
    except (OSError, ValueError):
        return True
    pid, until = int(about["pid"]), time.monotonic() + KILL_SECONDS
    while about["started"] and started_at(pid) == about["started"] and not _is_zombie(pid):
        if time.monotonic() > until:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)
    return True


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True
