"""Look at processes from outside, as an operator would, and wait for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def processes_of(home: Path, name: str = "") -> list[psutil.Process]:
    """Every living process that serves `home`, the oldest first: that is named in the arguments, the folder or the environment.
    With `name`, those that have it in their arguments."""
    found = [each for each in psutil.process_iter() if serves(each, str(home)) and name in arguments(each)]
    return sorted(found, key=psutil.Process.create_time)


def serves(process: psutil.Process, home: str) -> bool:
    """Whether a living process names `home` in its arguments, its folder or its environment."""
    if not is_alive(process):
        return False
    try:
        places = [*process.cmdline(), process.cwd(), process.environ().get("STUDIO_HOME", "")]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return any(home in place for place in places)


def is_alive(process: psutil.Process) -> bool:
    """A zombie has ended; that nobody has asked for its status yet is the business of process 1."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def arguments(process: psutil.Process) -> str:
    """All of them in one line; none of a process that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # or a zombie
        return ""


def is_spare(process: psutil.Process) -> bool:
    """Whether it is a limited process that waits for its request."""
    return "warm=" in arguments(process)


def processor_seconds(process: psutil.Process) -> float:
    """What it has computed so far, for itself and in the kernel."""
    times = process.cpu_times()
    return float(times.user + times.system)


def is_idle(process: psutil.Process, least_bytes: float) -> bool:
    """Whether it has so much in memory by now and computes nothing. Looks on for half a second."""
    before = processor_seconds(process)
    if process.memory_info().rss < least_bytes:
        return False
    time.sleep(0.5)
    return processor_seconds(process) - before < 0.05


def wait_until(condition: Callable[[], object], *, seconds: float = 10.0, what: str = "it") -> None:
    """Look every 20 ms until `condition` holds; fail in words after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)
