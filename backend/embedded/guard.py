"""`python -m backend.embedded.guard FD SIGNAL COMMAND…`: run a command, and send it a signal when the pipe FD closes.

It stands between a parent and a child where the kernel has no signal for a parent's death. Signals that end a process
are passed on, and the command's exit status becomes the guard's own.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def guard(descriptor: int, on_close: signal.Signals, command: list[str]) -> int:
    """Run `command` until it ends; returns its exit status, 128 + n for signal n."""
    child = subprocess.Popen(command, pass_fds=_inherited(descriptor))

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    while child.poll() is None:
        if select.select([descriptor], [], [], 0.1)[0]:  # readable means closed: nobody ever writes
            child.send_signal(on_close)
            break
    status = child.wait()
    return status if status >= 0 else 128 - status


def _inherited(descriptor: int) -> tuple[int, ...]:
    """The descriptors that were meant for the command: all but the standard ones and our own pipe."""
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else Path("/dev/fd")
    numbers = [int(entry.name) for entry in folder.iterdir()]
    return tuple(number for number in numbers if number > 2 and number != descriptor and _is_open(number))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), signal.Signals[sys.argv[2]], sys.argv[3:]))
