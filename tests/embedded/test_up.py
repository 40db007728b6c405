"""`studio up`, whole and real: its own Postgres, Valkey, web, worker and supervisor."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from tests.support.processes import processes_of, wait_until

Start = Callable[[], subprocess.Popen[str]]
CHILDREN = ("postgres", "valkey-server", "worker.supervisor", "celery", "backend.cli web")


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Start `studio up` over this test's home and wait until it says that it is ready."""
    started: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "STUDIO_HOME": str(home), "STUDIO_PORT": "0", "STUDIO_DEVICES": "cpu"}
    for name in ("DATABASE_URL", "REDIS_URL"):
        environment.pop(name, None)

    def run() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "backend.cli", "up"]
        with open(home / "up.log", "w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True)
        started.append(process)
        wait_until(lambda: "is ready" in said(home) or process.poll() is not None, seconds=60, what="the start")
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
    wait_until(lambda: not processes_of(home), seconds=5, what="the end of everything")


def said(home: Path) -> str:
    return (home / "up.log").read_text()


def child(home: Path, name: str) -> psutil.Process:
    """The oldest process of this home that has `name` in its arguments."""
    found = [process for process in processes_of(home) if name in " ".join(process.cmdline())]
    return min(found, key=psutil.Process.create_time)


def test_a_first_start_gives_an_address_and_a_link_that_open(home: Path, start: Start) -> None:
    start()
    assert {name for name in CHILDREN if not child(home, name)} == set()
    link = re.search(r"works once: (\S+)", said(home))
    assert link, said(home)
    assert urlopen(link[1], timeout=10).status == 200
    assert (home / "run" / "address").read_text().strip() in link[1]


def test_no_password_is_in_any_arguments_or_log(home: Path, start: Start) -> None:
    start()
    passwords = [(home / service / "password").read_text().strip() for service in ("postgres", "valkey")]
    arguments = [part for process in processes_of(home) for part in process.cmdline()]
    logs = [path.read_text() for path in (home / "logs").iterdir()]
    seen = "\n".join([*arguments, *logs, said(home)])
    assert not [password for password in passwords if password in seen]


def test_killed_with_9_it_leaves_nothing_and_starts_again(home: Path, start: Start) -> None:
    first = start()
    first.kill()
    first.wait()
    wait_until(lambda: not processes_of(home), seconds=2, what="the end of everything")
    start()
    assert "is ready" in said(home)


def test_whatever_is_killed_with_9_comes_back(home: Path, start: Start) -> None:
    start()
    killed = {name: child(home, name) for name in CHILDREN}
    for process in killed.values():
        process.kill()
    for name, process in killed.items():
        wait_until(lambda name=name, process=process: _replaced(home, name, process), seconds=15, what=name)  # type: ignore[misc]
    address = (home / "run" / "address").read_text().strip()
    wait_until(lambda: _healthy(address), seconds=15, what="a healthy web")


def _replaced(home: Path, name: str, former: psutil.Process) -> bool:
    found = [process for process in processes_of(home) if name in " ".join(process.cmdline())]
    return bool(found) and former not in found


def _healthy(address: str) -> bool:
    try:
        return bool(urlopen(f"{address}/healthz", timeout=5).status == 200)
    except OSError:
        return False


def test_told_to_stop_it_ends_in_order_and_soon(home: Path, start: Start) -> None:
    up = start()
    begun = time.monotonic()
    up.terminate()
    assert up.wait(30) == 0
    assert time.monotonic() - begun < 15
    assert not processes_of(home)
    assert "was killed" not in said(home)
    assert "database system is shut down" in (home / "logs" / "postgres.log").read_text()


def test_a_second_start_over_the_same_home_is_refused(home: Path, start: Start) -> None:
    up = start()
    environment = {**os.environ, "STUDIO_HOME": str(home), "STUDIO_PORT": "0"}
    second = subprocess.run(
        [sys.executable, "-m", "backend.cli", "up"], env=environment, capture_output=True, text=True
    )
    assert second.returncode == 1
    assert f"process {up.pid}" in second.stderr
