"""A limited process that has imported what reading rows through a model takes, and waits: a second of a core that nobody
then waits for. It is kept while people have files read, serves one request like any other limited process, and is replaced.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

AFTER_SECONDS = 2.0
"""What has just been read is most often trained on: the core is the trainer's first."""
IDLE_SECONDS = 900.0
"""It takes 60 MiB, which are given back when nothing was read for so long."""

Start = Callable[[], "subprocess.Popen[bytes]"]


class Spare:
    """Keeps one such process once it is wanted. `end` ends one that was never used."""

    def __init__(self, start: Start, end: Callable[[subprocess.Popen[bytes]], None]) -> None:
        self._start, self._end = start, end
        self._process: subprocess.Popen[bytes] | None = None
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._wishes: SimpleQueue[None] = SimpleQueue()
        # Of its own, and as old as this process: what dies with its parent dies with the thread that started it.
        self._keeper = threading.Thread(target=self._keep, name="spare", daemon=True)
        self._keeper.start()

    def want(self) -> None:
        """Have one in a moment, and for a while."""
        self._wishes.put(None)

    def take(self) -> subprocess.Popen[bytes] | None:
        """The process, which is the caller's then; None where none waits."""
        with self._lock:
            process, self._process = self._process, None
        return process if process is not None and process.poll() is None else None

    def close(self) -> None:
        self._closing.set()
        self.want()
        self._keeper.join()

    def _keep(self) -> None:
        while not self._closing.is_set():
            try:
                self._wishes.get(timeout=IDLE_SECONDS)
            except Empty:
                self._drop()
            else:
                if not self._closing.wait(AFTER_SECONDS):
                    self._renew()
        self._drop()

    def _renew(self) -> None:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                with contextlib.suppress(OSError):  # no process to be had: the next reading starts its own, or says so
                    self._process = self._start()

    def _drop(self) -> None:
        if process := self.take():
            self._end(process)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()
