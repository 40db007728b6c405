"""A trainer ends with the supervisor that started it. Nothing heavy is imported here: this comes before all else."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1
PARENT = "STUDIO_TRAINER_PARENT"
"""The variable in which a supervisor tells its trainer the number of its process."""


def die_with_parent() -> None:
    """Have the kernel end this process when its parent dies. Where it cannot, stdin closes.

    `PARENT` names the parent: it may be gone before this process can ask who it was.
    """
    parent = int(os.environ.get(PARENT) or os.getppid())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it died before the call took effect
        os._exit(1)


def watch_stdin() -> None:
    """End this process when stdin closes: the parent is gone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()
