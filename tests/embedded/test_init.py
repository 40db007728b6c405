"""The init, around children that only sleep: it restarts them, ends them in order, and takes them with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes import processes_of, wait_until

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Start an init over children with these names and wait until each has written its process id."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*names: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-m", "tests.embedded.stand_in", str(home), *names]))
        wait_until(lambda: all((home / f"{name}.pid").exists() for name in names), what="the start of the children")
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def pid(home: Path, name: str) -> int:
    return int((home / f"{name}.pid").read_text())


def test_a_child_that_dies_is_started_again_and_the_log_says_so(home: Path, start: Start) -> None:
    start("one", "two")
    first, other = pid(home, "one"), pid(home, "two")
    psutil.Process(first).kill()
    wait_until(lambda: pid(home, "one") != first, what="the restart")
    assert pid(home, "two") == other
    assert "one was ended by SIGKILL" in (home / "init.log").read_text()


def test_the_pauses_before_a_restart_grow(home: Path, start: Start) -> None:
    start("broken")
    log = home / "init.log"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= 3, what="the third death")
    pauses = [line.split()[-2] for line in log.read_text().splitlines()[:3]]
    assert pauses == ["0.2", "0.4", "0.8"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_stop_it_ends_the_last_child_first(home: Path, start: Start, number: signal.Signals) -> None:
    init = start("one", "two", "three")
    init.send_signal(number)
    assert init.wait(10) == 0
    assert (home / "ended").read_text().split() == ["three", "two", "one"]


def test_a_child_that_does_not_end_in_time_is_killed(home: Path, start: Start) -> None:
    init = start("one", "stubborn")
    init.terminate()
    assert init.wait(10) == 0
    assert "stubborn did not end within 1 s and was killed" in (home / "init.log").read_text()
    assert (home / "ended").read_text().split() == ["one"]


def test_killed_with_9_it_takes_every_child_with_it(home: Path, start: Start) -> None:
    init = start("one", "stubborn")
    init.kill()
    init.wait()
    wait_until(lambda: not processes_of(home), seconds=2, what="the end of the children")


def test_ctrl_c_twice_ends_everything_at_once(home: Path, start: Start) -> None:
    init = start("one", "stubborn")
    init.send_signal(signal.SIGINT)
    wait_until(lambda: signal.SIGINT not in _caught(init.pid), seconds=2, what="the beginning of the end")
    init.send_signal(signal.SIGINT)
    init.wait(2)
    wait_until(lambda: not processes_of(home), seconds=2, what="the end of the children")


def _caught(process_id: int) -> set[int]:
    """The signals for which a process has a handler, as the kernel lists them."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    mask = int(next(line for line in lines if line.startswith("SigCgt")).split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}
