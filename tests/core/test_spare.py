from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from backend.core import limited, spare
from backend.core.errors import Invalid
from backend.core.limited import run_limited
from tests.support.processes import is_alive, is_spare, wait_until

HERE = "tests.core.limited_functions"
KEEPING = f"""
from backend.core import limited, spare
limited.PACKAGES, limited.WARM, spare.AFTER_SECONDS = ('tests.',), '{HERE}:warm', 0
with limited.spare_kept():
    limited.run_limited('{HERE}:who', {{}})
    print(flush=True)
    input()
"""


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A spare is kept for the functions of these tests."""
    monkeypatch.setattr(limited, "PACKAGES", (*limited.PACKAGES, "tests."))
    monkeypatch.setattr(limited, "WARMED", HERE)
    monkeypatch.setattr(limited, "WARM", f"{HERE}:warm")
    monkeypatch.setattr(spare, "AFTER_SECONDS", 0)
    with limited.spare_kept():
        yield
    assert spares() == []


def spares(pid: int | None = None) -> list[int]:
    """Of a process, which is this one by default."""
    return [each.pid for each in psutil.Process(pid).children() if is_spare(each)]


def with_a_spare(pid: int | None = None) -> int:
    wait_until(lambda: spares(pid) != [], seconds=20, what="a spare")
    return spares(pid)[0]


def who() -> Any:
    return run_limited(f"{HERE}:who", {})


@pytest.mark.usefixtures("kept")
def test_a_spare_serves_one_request_and_another_takes_its_place() -> None:
    assert not who()["is_warm"]
    for _ in range(2):
        waiting = with_a_spare()
        told = who()
        assert (told["pid"], told["is_warm"]) == (waiting, True)
        assert not psutil.pid_exists(waiting)


@pytest.mark.usefixtures("kept")
def test_a_spare_knows_no_credential_and_holds_nothing_but_its_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "secret")
    who()
    with_a_spare()
    assert "DATABASE_URL" not in run_limited(f"{HERE}:environment", {})
    with_a_spare()
    assert {each.split(":")[0] for each in who()["held"]} == {"pipe"}


@pytest.mark.usefixtures("kept")
def test_the_limits_of_a_request_hold_in_a_spare_too() -> None:
    who()
    with_a_spare()
    with pytest.raises(Invalid, match="too much memory"):
        run_limited(f"{HERE}:allocates", {"mib": 400}, memory_mib=128)


@pytest.mark.usefixtures("kept")
def test_a_spare_that_died_is_not_asked() -> None:
    who()
    waiting = psutil.Process(with_a_spare())
    waiting.kill()
    wait_until(lambda: not is_alive(waiting), seconds=5, what="its death")
    assert not who()["is_warm"]


@pytest.mark.usefixtures("kept")
def test_what_is_to_know_more_of_its_surroundings_is_started_for_itself() -> None:
    who()
    waiting = with_a_spare()
    assert run_limited(f"{HERE}:who", {}, environment={"HF_TOKEN": "one"})["pid"] != waiting


def test_a_spare_that_nobody_needs_is_ended(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(spare, "IDLE_SECONDS", 1)
    request.getfixturevalue("kept")
    who()
    with_a_spare()
    wait_until(lambda: spares() == [], seconds=20, what="the end of a spare")


def test_a_spare_does_not_outlive_a_process_that_is_killed() -> None:
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=limited.ROOT
    )
    assert keeper.stdout
    keeper.stdout.readline()
    waiting = psutil.Process(with_a_spare(keeper.pid))
    keeper.kill()
    keeper.communicate()
    wait_until(lambda: not is_alive(waiting), seconds=5, what="its end")
