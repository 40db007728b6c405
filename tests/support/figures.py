"""Figures that tests measure beside what they assert: shown at the end of a test run, and kept for a page of results."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
"""Where campaigns keep their pages."""
KEPT = ROOT / "build" / "faults" / "figures.jsonl"
MEASURED = ("backend", "worker", "migrations", "tests/faults", "tests/fuzz")
IS_LONG = os.environ.get("STUDIO_FAULTS") == "all"
"""Whether tests take their long form, whose figures a page shows."""


@dataclass(frozen=True)
class Figure:
    """Something measured. `goal` is the most that it may be, on a machine with nothing else to do."""

    name: str
    value: float
    unit: str
    goal: float | None
    commit: str
    is_long: bool

    def __str__(self) -> str:
        goal = f" (goal: at most {self.goal:g})" if self.goal is not None else ""
        return f"{self.name}: {self.value:.2f} {self.unit}{goal}"


Note = Callable[[str, float, str, float | None], None]


@cache
def head() -> str:
    """The last commit that changed what is measured or how it is judged; outside of git the version of the package."""
    asked = ["git", "log", "-1", "--format=%h", "--abbrev=12", "--", *MEASURED]
    told = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return told.stdout.strip() or version("finetune-studio")


def kept() -> list[Figure]:
    """All that was kept, the newest last."""
    return [Figure(**json.loads(line)) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Note:
    """Call it with a name, what was measured, its unit and the goal."""

    def note(name: str, value: float, unit: str, goal: float | None) -> None:
        measured = Figure(name, value, unit, goal, head(), IS_LONG)
        record_property("figure", str(measured))
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        with KEPT.open("a") as file:
            file.write(json.dumps(asdict(measured)) + "\n")

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """All figures of this run, in the order of their tests, whether these passed or not."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    found = [value for report in reports for name, value in report.user_properties if name == "figure"]
    if found:
        terminalreporter.section("figures")
        for line in dict.fromkeys(found):
            terminalreporter.line(str(line))
