"""A small init: it starts children, restarts whichever dies, and ends them all in order. When it dies, they die."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCHLD, SIGHUP, SIGINT, SIGTERM, Signals
from types import FrameType

from backend.core.errors import StudioError
from backend.embedded.service import stop_process

STOPPING = (SIGTERM, SIGINT, SIGHUP)
LOG = logging.getLogger("studio")
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that lived this long has recovered: its next death is its first again."""


@dataclass(frozen=True)
class Child:
    """What to start, and how to end it."""

    name: str
    launch: Callable[[], subprocess.Popen[bytes]]
    log: Path
    stop_signal: Signals = SIGTERM
    grace_seconds: float = 10.0


@dataclass
class Running:
    """A child's present process, or since when and how often it has been dead."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    due: float = 0.0

    def start(self) -> None:
        self.started = time.monotonic()
        try:
            self.process = self.child.launch()
        except (StudioError, OSError) as error:
            self.process = None
            self._wait_longer(str(error))

    def tend(self) -> None:
        """Notice a death; start again when its pause is over."""
        if self.process is None:
            if time.monotonic() >= self.due:
                self.start()
        elif (status := self.process.poll()) is not None:
            self.process = None
            self._wait_longer(f"{_ending(status)}; its log is {self.child.log}")

    def _wait_longer(self, why: str) -> None:
        now = time.monotonic()
        self.deaths = 1 if now - self.started >= STEADY_SECONDS else self.deaths + 1
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self.deaths - 1, 10), LONGEST_PAUSE_SECONDS)
        self.due = now + pause
        LOG.warning("%s %s; starting it again in %.1f s", self.child.name, why, pause)

    def stop(self) -> None:
        if self.process is None:
            return
        if not stop_process(self.process, self.child.stop_signal, self.child.grace_seconds):
            LOG.warning("%s did not end within %.0f s and was killed", self.child.name, self.child.grace_seconds)
        self.process = None


def _ending(status: int) -> str:
    return f"was ended by {Signals(-status).name}" if status < 0 else f"ended with status {status}"


class Stopped(BaseException):
    """We were told to stop. Not an `Exception`, so that nothing on the way takes it for a failure."""


@dataclass
class Init:
    """The children in the order in which they start; they end in the opposite one.

    Use it as a context from the main thread: on leaving, however that happens, every child has ended.
    """

    running: list[Running] = field(default_factory=list)

    def __enter__(self) -> Init:
        self._wakeup, self._wakeup_end = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(self._wakeup_end, False)
        self._former_wakeup = signal.set_wakeup_fd(self._wakeup_end, warn_on_full_buffer=False)
        # What is ignored stays so: `nohup` means that a closed terminal does not matter.
        heard = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
        self._former = {number: signal.signal(number, _stop) for number in heard}
        self._former[SIGCHLD] = signal.signal(SIGCHLD, _wake)  # so that a death interrupts the wait below
        return self

    def __exit__(self, *_: object) -> None:
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        if SIGINT in self._former:
            signal.signal(SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends us at once, and that ends every child
        for running in reversed(self.running):
            running.stop()
        signal.set_wakeup_fd(self._former_wakeup)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        os.close(self._wakeup)
        os.close(self._wakeup_end)

    def start(self, child: Child) -> subprocess.Popen[bytes]:
        """Start a child and keep it alive from now on. The first start may fail; later ones are tried again."""
        running = Running(child, started=time.monotonic())
        process = running.process = child.launch()
        self.running.append(running)
        return process

    def watch(self, until: Callable[[], bool] | None = None) -> None:
        """Keep the children alive until `until` says so, or for ever. Raises `Stopped` when told to stop."""
        while until is None or not until():
            for running in self.running:
                running.tend()
            pauses = [running.due - time.monotonic() for running in self.running if running.process is None]
            self._sleep(max(0.0, min([0.1 if until else 5.0, *pauses])))

    def _sleep(self, seconds: float) -> None:
        if select.select([self._wakeup], [], [], seconds)[0]:
            os.read(self._wakeup, 4096)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped


def _wake(_number: int, _frame: FrameType | None) -> None:
    """Nothing to do: that a handler exists makes the signal write to the wake-up pipe."""
