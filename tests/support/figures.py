"""Figures: those that tests measure beside what they assert, shown at the end of a test run, and those that campaigns keep
in lines of JSON and show as a page of results."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from pydantic import TypeAdapter

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
"""Where campaigns keep their pages."""
KEPT = ROOT / "build" / "faults" / "figures.jsonl"
MEASURED = (
    *("backend", "worker", "migrations", "requirements-dev.lock"),
    *("tests/faults", "tests/fuzz", "tests/support", "tests/conftest.py"),
    *("tests/journeys/curves.py", "tests/journeys/materials.py"),
)
"""Whose change makes kept figures those of an earlier commit: the product, what it is built on in the versions that are
installed here, and what strikes, feeds and judges it. The whole of `tests/support`, most of which campaigns use: a list of
those parts would be forgotten, and its price is that some faults strike once more than they had to."""
PAGES = ("frontend", "hatch_build.py")
"""The same of figures for which a browser looks at pages. Campaigns ask the API alone, so that a style or a word that changes
leaves thousands of faults as good as they were."""
MEANS = tuple(f"tests/support/{name}.py" for name in ("clocks", "disks", "hosts", "links", "processes"))
"""What strikes of the fault campaign are carried out with."""
RULES = (
    "tests/faults",
    *MEANS,
    *(f":(exclude)tests/faults/{name}" for name in ("__main__.py", "report.py", "conftest.py", "test_*.py")),
    *(f":(exclude)tests/faults/{name}.py" for name in ("drives", "feeding", "load", "planted", "small", "soak")),
)
"""What strikes studios and judges them in the fault campaign, as paths that git knows: without what only counts and tells,
and what single tests and the soak are made of."""
CHANGED = "-dirty"
"""Marks a commit where what is measured is no longer as it was committed."""
IS_LONG = os.environ.get("STUDIO_FAULTS") == "all"
"""Whether tests take their long form, whose figures a page shows."""


# ---- what campaigns keep and show -----------------------------------------------------------------------------------

T = TypeVar("T")


def keep(path: Path, kept: Any) -> None:
    """Append a dataclass to a file, as a line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(TypeAdapter(type(kept)).dump_json(kept) + b"\n")


def kept_in(path: Path, kind: type[T]) -> list[T]:
    """All that was kept there, the newest last."""
    reader = TypeAdapter(kind)
    return [reader.validate_json(line) for line in path.read_bytes().splitlines()] if path.exists() else []


class Committed(Protocol):
    @property
    def commit(self) -> str: ...


C = TypeVar("C", bound=Committed)


def of_newest_commit(kept: Sequence[C]) -> list[C]:
    """Those of the commit that was measured last. What an earlier one did is told, and no longer its fault."""
    return [each for each in kept if each.commit == kept[-1].commit]


def of_today(path: Path = KEPT) -> list[Figure]:
    """Those of long forms that were measured on what is here now."""
    now = {of_pages: head(of_pages=of_pages) for of_pages in (False, True)}
    return [each for each in kept_in(path, Figure) if each.is_long and each.commit == now[each.of_pages]]


@dataclass(frozen=True)
class Row:
    """What was found and what it is to be, in words; `holds` is None where nothing is promised."""

    what: str
    found: str
    goal: str = ""
    holds: bool | None = None

    def __str__(self) -> str:
        missed = ", MISSED" if self.holds is False else ""
        return f"{self.what}: {self.found}" + (f" (goal: {self.goal}{missed})" if self.goal else "")


def all_hold(rows: Iterable[Row]) -> bool:
    """Whether no promise is missed."""
    return all(row.holds is not False for row in rows)


def table(rows: Iterable[Row]) -> list[str]:
    """The rows for a page."""
    verdicts = {True: ": met", False: ": MISSED", None: ""}
    lines = [f"| {row.what} | {row.found} | {row.goal}{verdicts[row.holds]} |" for row in rows]
    return ["| figure | found | goal |", "|---|---|---|", *lines]


# ---- what tests measure ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """Something measured. `goal` is the most that it may be, on a machine with nothing else to do."""

    name: str
    value: float
    unit: str
    goal: float | None
    commit: str
    is_long: bool
    of_pages: bool = False
    """Whether a browser looked at pages."""

    def __str__(self) -> str:
        goal = f" (goal: at most {self.goal:g})" if self.goal is not None else ""
        return f"{self.name}: {self.value:.2f} {self.unit}{goal}"


Note = Callable[[str, float, str, float | None], None]


def head(*, of_pages: bool = False) -> str:
    """The last commit that changed what is measured or how it is judged, marked where more was changed since; outside of git
    the version of the package. It is asked anew each time: what is measured may be changed meanwhile."""
    paths = (*MEASURED, *PAGES) if of_pages else MEASURED
    commit = _git("log", "-1", "--format=%h", "--abbrev=12", "--", *paths)
    changed = CHANGED if _git("status", "--porcelain", "--", *paths) else ""
    return f"{commit}{changed}" if commit else version("finetune-studio")


def rules_of(commit: str) -> str:
    """The commit that changed RULES last, as seen from that one: faults on two commits of the product that have it in common
    were struck and judged alike. Empty where git does not know that commit, or more was changed since."""
    if not commit or commit.endswith(CHANGED):
        return ""
    return _git("log", "-1", "--format=%h", "--abbrev=12", commit, "--", *RULES)


def _git(*asked: str) -> str:
    return subprocess.run(["git", *asked], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


@pytest.fixture
def figure(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Note:
    """Call it with a name, what was measured, its unit and the goal."""
    of_pages = request.node.get_closest_marker("browser") is not None

    def note(name: str, value: float, unit: str, goal: float | None) -> None:
        measured = Figure(name, value, unit, goal, head(of_pages=of_pages), IS_LONG, of_pages)
        record_property("figure", str(measured))
        keep(KEPT, measured)

    return note


SHORT_FORMS = (
    "tests/faults/test_campaign.py",
    *(f"tests/fuzz/test_{each}.py" for each in ("api", "life", "parsers", "uploading")),
)
SHORT_SECONDS = 600
"""What all of them together are to take at most, one after the other, on a machine with nothing else to do."""
BUSY = 2
"""How many times as long they may take on one that does something else as well, and once more for each process beside them."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """All figures of this run, in the order of their tests, whether these passed or not."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    found = [value for report in reports for name, value in report.user_properties if name == "figure"]
    if (row := short_forms(_all_reports(terminalreporter))) is not None:
        found.append(str(row))
    if found:
        terminalreporter.section("figures")
        for line in dict.fromkeys(found):
            terminalreporter.line(str(line))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Short forms that took far too long fail a run of the tests. Where it has several processes, the one that tells is asked."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or session.exitstatus:
        return
    processes = session.config.getoption("numprocesses", None) or 1
    if is_far_too_long(seconds_of_short_forms(_all_reports(terminal)), processes):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def is_far_too_long(seconds: float, processes: int) -> bool:
    """Whether short forms took so long that what else the machine did cannot explain it: a goal that is missed by less is told
    in words."""
    return seconds > BUSY * SHORT_SECONDS * processes


def _all_reports(terminal: pytest.TerminalReporter) -> list[object]:
    return [each for some in terminal.stats.values() for each in some]


def short_forms(reports: Iterable[object]) -> Row | None:
    """How long the short campaigns took in all; nothing where one of them was left out."""
    if not (seconds := seconds_of_short_forms(reports)):
        return None
    what = "short forms of faults and fuzz, together"
    return Row(what, f"{seconds:.0f} s", f"at most {SHORT_SECONDS}", seconds <= SHORT_SECONDS)


def seconds_of_short_forms(reports: Iterable[object]) -> float:
    """With what they set up and took down; none where one of them was left out."""
    took = dict.fromkeys(SHORT_FORMS, 0.0)
    for each in reports:
        if isinstance(each, pytest.TestReport) and (file := each.nodeid.partition("::")[0]) in took:
            took[file] += each.duration
    return sum(took.values()) if all(took.values()) else 0.0
