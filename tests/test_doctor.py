"""The doctor: plain words, and a status that scripts can read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.core.settings import settings
from backend.doctor import Finding, Verdict, examine_host


def finding(subject: str) -> Finding:
    return next(one for one in examine_host(settings()) if one.subject == subject)


@pytest.mark.usefixtures("studio_home")
def test_this_machine_can_serve_a_studio() -> None:
    assert [str(one) for one in examine_host(settings()) if one.is_fatal and one.subject != "front end"] == []


def test_a_service_that_does_not_answer_is_told_by_the_name_of_its_variable(
    studio_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://nobody@/none?host={studio_home}")
    monkeypatch.setenv("REDIS_URL", f"unix://{studio_home}/none.sock")
    settings.cache_clear()
    for subject, variable in (("Postgres", "DATABASE_URL"), ("Valkey", "REDIS_URL")):
        found = finding(subject)
        assert found.verdict is Verdict.BAD
        assert variable in found.words
        assert f"unset {variable}" in found.hint


def test_services_that_answer_are_good(
    studio_home: Path, database_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", valkey_url)
    settings.cache_clear()
    assert {finding("Postgres").verdict, finding("Valkey").verdict} == {Verdict.GOOD}
    assert studio_home.exists()


def test_a_home_that_others_may_enter_is_noted_with_the_line_that_closes_it(studio_home: Path) -> None:
    studio_home.chmod(0o755)
    found = finding("home")
    assert found.verdict is Verdict.NOTE
    assert f"chmod 700 {studio_home}" in found.hint


def test_looking_makes_nothing(studio_home: Path) -> None:
    studio_home.rmdir()
    examine_host(settings())
    assert not studio_home.exists()


def test_the_command_ends_with_1_when_something_is_bad(studio_home: Path) -> None:
    environment = {**os.environ, "STUDIO_HOME": str(studio_home), "REDIS_URL": "redis://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-m", "backend.cli", "doctor"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "BAD  Valkey" in done.stdout
    assert "ok   training      torch 2." in done.stdout
