"""Kept figures are those of what is here now, and a run of the tests tells how long its short campaigns took."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import figures
from tests.support.figures import CHANGED, MEASURED, ROOT, SHORT_FORMS, Figure, head, keep, of_today, short_forms


def imported_by(path: Path) -> Iterator[Path]:
    """The modules of ours under `tests` that this one names, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}", *(f"{node.module}.{name}" for name in names)]
        files = (ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names if name.startswith("tests."))
        yield from (file for file in files if file.is_file())


def test_whatever_a_campaign_is_made_of_makes_its_figures_old_when_it_changes() -> None:
    waiting = [*(ROOT / "tests" / "faults").glob("*.py"), *(ROOT / "tests" / "fuzz").glob("*.py")]
    seen = set(waiting)
    while waiting:
        more = set(imported_by(waiting.pop())) - seen
        waiting += more
        seen |= more
    measured = [ROOT / each for each in MEASURED]
    assert [path for path in measured if not path.exists()] == []
    assert [path for path in seen if not any(path.is_relative_to(each) for each in measured)] == []
    assert ROOT / "tests" / "support" / "links.py" in seen


def test_figures_of_short_forms_and_of_other_commits_are_not_todays(tmp_path: Path) -> None:
    now = Figure("a rest", 1.0, "s", 10.0, head(), is_long=True)
    page = Figure("a page", 1.0, "s", 10.0, head(of_pages=True), is_long=True, of_pages=True)
    for each in (now, replace(now, is_long=False), replace(now, commit="before"), page, replace(page, commit="before")):
        keep(tmp_path / "figures.jsonl", each)
    assert of_today(tmp_path / "figures.jsonl") == [now, page]


def test_an_edit_and_a_commit_are_seen_by_whoever_asks_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    measured = tmp_path / "worker" / "part.py"
    measured.parent.mkdir()

    def git(*asked: str) -> None:
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *asked], cwd=tmp_path, check=True, capture_output=True)

    def commit() -> None:
        git("add", "worker")
        git("commit", "-m", "It is otherwise")

    git("init")
    measured.write_text("1")
    commit()
    first = head()
    measured.write_text("2")
    assert head() == f"{first}{CHANGED}"
    commit()
    assert head() not in (first, f"{first}{CHANGED}")
    assert not head().endswith(CHANGED)


def report(file: str, seconds: float) -> pytest.TestReport:
    return pytest.TestReport(f"{file}::a_test", (file, 1, "a test"), {}, "passed", None, "setup", duration=seconds)


def test_the_seconds_of_the_short_forms_are_told_where_all_of_them_ran() -> None:
    ran = [report(file, 50.0) for file in SHORT_FORMS for _ in ("setup", "call")]
    other = report("tests/fuzz/test_campaign.py", 7.0)
    assert list(short_forms([*ran, other, "a warning"])) == [
        "short forms of faults and fuzz, together: 500 s (goal: at most 600)"
    ]
    assert list(short_forms([*ran[2:], other])) == []
    assert all((ROOT / file).is_file() for file in SHORT_FORMS)
