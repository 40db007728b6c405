"""`studio up`, whole and real: its own Postgres, Valkey, web, worker and supervisor."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from backend.embedded.home import noted
from tests.support.homes import short_home
from tests.support.processes import arguments, processes_of, wait_until

UP = [sys.executable, "-m", "backend.cli", "up"]
CHILDREN = ("postgres", "valkey-server", "worker.supervisor", "celery", "backend.cli web")


def start(home: Path) -> subprocess.Popen[bytes]:
    """Start `studio up` and wait until it says that it is ready."""
    with open(home / "up.log", "w") as log:
        process = subprocess.Popen(UP, env=environment(home), stdout=log, stderr=log)
    wait_until(lambda: "is ready" in said(home) or process.poll() is not None, seconds=120, what="the start")
    assert process.poll() is None, said(home)
    return process


def environment(home: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    return {**inherited, "STUDIO_HOME": str(home), "STUDIO_PORT": "0", "STUDIO_DEVICES": "cpu"}


def kill(process: subprocess.Popen[bytes], home: Path) -> None:
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(home), seconds=2, what="the end of everything")


@pytest.fixture(scope="module")
def studio() -> Iterator[Path]:
    """The home of a studio that serves all through this file."""
    with short_home() as home:
        process = start(home)
        yield home
        kill(process, home)


def said(home: Path) -> str:
    return (home / "up.log").read_text()


def child(home: Path, name: str) -> psutil.Process:
    """The oldest process of this home that has `name` in its arguments."""
    return processes_of(home, name)[0]


def test_a_first_start_gives_an_address_and_a_link_that_open(studio: Path) -> None:
    link = re.search(r"works once: (\S+)", said(studio))
    assert link, said(studio)
    assert urlopen(link[1], timeout=10).status == 200
    assert noted(studio / "run" / "address") in link[1]


def test_no_password_is_in_any_arguments_or_log(studio: Path) -> None:
    passwords = [(studio / service / "password").read_text().strip() for service in ("postgres", "valkey")]
    lines = [arguments(process) for process in processes_of(studio)]
    logs = [path.read_text() for path in (studio / "logs").iterdir()]
    seen = "\n".join([*lines, *logs, said(studio)])
    assert not [password for password in passwords if password in seen]


def test_killed_with_9_it_leaves_nothing_and_starts_again(home: Path) -> None:
    kill(start(home), home)
    assert (home / "run" / "address").read_text()
    assert noted(home / "run" / "address") == "", "whoever listens there now is no studio"
    kill(start(home), home)


def test_whatever_is_killed_with_9_comes_back(studio: Path) -> None:
    killed = {name: child(studio, name) for name in CHILDREN}
    for process in killed.values():
        process.kill()
    for name, process in killed.items():
        wait_until(lambda name=name, process=process: _replaced(studio, name, process), seconds=15, what=name)  # type: ignore[misc]
    address = (studio / "run" / "address").read_text().strip()
    wait_until(lambda: _healthy(address), seconds=15, what="a healthy web")


def _replaced(home: Path, name: str, former: psutil.Process) -> bool:
    found = processes_of(home, name)
    return bool(found) and former not in found


def _healthy(address: str) -> bool:
    try:
        return bool(urlopen(f"{address}/healthz", timeout=5).status == 200)
    except OSError:
        return False


def test_told_to_stop_it_ends_in_order_and_soon(home: Path) -> None:
    up = start(home)
    begun = time.monotonic()
    up.terminate()
    assert up.wait(30) == 0
    assert time.monotonic() - begun < 15
    assert not processes_of(home)
    assert not (home / "run" / "address").exists()
    assert "was killed" not in said(home)
    assert "database system is shut down" in (home / "logs" / "postgres.log").read_text()


def test_a_second_start_over_the_same_home_is_refused(studio: Path) -> None:
    holder = child(studio, "backend.cli up").pid
    second = subprocess.run(UP, env=environment(studio), capture_output=True, text=True)
    assert second.returncode == 1
    assert f"process {holder}" in second.stderr
