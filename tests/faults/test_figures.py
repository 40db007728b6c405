"""Kept figures are those of what is here now, and a run of the tests tells how long its short campaigns took."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import figures
from tests.support.figures import (
    CHANGED,
    MEANS,
    MEASURED,
    ROOT,
    RULES,
    SHORT_FORMS,
    Figure,
    head,
    is_far_too_long,
    keep,
    of_today,
    rules_of,
    short_forms,
)


def imported_by(path: Path) -> Iterator[Path]:
    """The modules of ours under `tests` that this one names, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}", *(f"{node.module}.{name}" for name in names)]
        files = (ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names if name.startswith("tests."))
        yield from (file for file in files if file.is_file())


def made_of(*files: Path) -> set[Path]:
    """These, and all of ours under `tests` that they are made of."""
    waiting, seen = list(files), set(files)
    while waiting:
        more = set(imported_by(waiting.pop())) - seen
        waiting += more
        seen |= more
    return seen


def test_whatever_a_campaign_is_made_of_makes_its_figures_old_when_it_changes() -> None:
    seen = made_of(*(ROOT / "tests" / "faults").glob("*.py"), *(ROOT / "tests" / "fuzz").glob("*.py"))
    measured = [ROOT / each for each in MEASURED]
    assert [path for path in measured if not path.exists()] == []
    assert [path for path in seen if not any(path.is_relative_to(each) for each in measured)] == []
    assert ROOT / "tests" / "support" / "links.py" in seen


def test_the_rules_of_a_campaign_are_all_that_strikes_and_judges_and_nothing_else() -> None:
    faults = ROOT / "tests" / "faults"
    if not (ROOT / ".git").exists():
        pytest.skip("git is not here, which would tell the files")
    listed = subprocess.run(["git", "ls-files", "--", *RULES], cwd=ROOT, capture_output=True, text=True, check=True)
    made, means = made_of(faults / "campaign.py"), {ROOT / each for each in MEANS}
    striking = {path for path in made if path.parent == faults or path in means}
    assert {ROOT / each for each in listed.stdout.splitlines()} == striking | {faults / "__init__.py"}
    assert means <= striking


def test_figures_of_short_forms_and_of_other_commits_are_not_todays(tmp_path: Path) -> None:
    now = Figure("a rest", 1.0, "s", 10.0, head(), is_long=True)
    page = Figure("a page", 1.0, "s", 10.0, head(of_pages=True), is_long=True, of_pages=True)
    for each in (now, replace(now, is_long=False), replace(now, commit="before"), page, replace(page, commit="before")):
        keep(tmp_path / "figures.jsonl", each)
    assert of_today(tmp_path / "figures.jsonl") == [now, page]


class Repository:
    """One of its own, in which what is measured changes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init")

    def git(self, *asked: str) -> None:
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *asked], cwd=self.root, check=True, capture_output=True)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self) -> str:
        """All that was written; what is measured now."""
        self.git("add", ".")
        self.git("commit", "-m", "It is otherwise")
        return head()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    return Repository(tmp_path)


def test_an_edit_and_a_commit_are_seen_by_whoever_asks_next(repository: Repository) -> None:
    repository.write("worker/part.py", "1")
    first = repository.commit()
    repository.write("worker/part.py", "2")
    assert head() == f"{first}{CHANGED}"
    second = repository.commit()
    assert second not in (first, f"{first}{CHANGED}")
    assert not second.endswith(CHANGED)


def test_commits_of_the_product_and_of_what_only_tells_of_a_campaign_leave_its_rules_as_they_are(
    repository: Repository,
) -> None:
    repository.write("tests/faults/checker.py", "1")
    first = repository.commit()
    for name in ("worker/part.py", "tests/faults/report.py", "tests/faults/test_checker.py", "tests/faults/soak.py"):
        repository.write(name, "1")
        assert repository.commit() != first
        assert rules_of(head()) == first
    repository.write("tests/faults/checker.py", "2")
    assert rules_of(head()) == "", "nobody can name what was changed since its commit"
    second = repository.commit()
    assert (rules_of(head()), rules_of(first)) == (second, first)


def test_what_git_does_not_know_has_no_rules(repository: Repository) -> None:
    repository.write("tests/faults/checker.py", "1")
    repository.commit()
    assert [rules_of(each) for each in ("", "0123456789ab", "0.1.0")] == ["", "", ""]


def report(file: str, seconds: float) -> pytest.TestReport:
    return pytest.TestReport(f"{file}::a_test", (file, 1, "a test"), {}, "passed", None, "setup", duration=seconds)


def test_the_seconds_of_the_short_forms_are_told_where_all_of_them_ran() -> None:
    ran = [report(file, 50.0) for file in SHORT_FORMS for _ in ("setup", "call")]
    other = report("tests/fuzz/test_campaign.py", 7.0)
    told = "short forms of faults and fuzz, together: {} s (goal: at most 600{})"
    assert str(short_forms([*ran, other, "a warning"])) == told.format(500, "")
    assert str(short_forms([*ran, *ran[:3]])) == told.format(650, ", MISSED")
    assert short_forms([*ran[2:], other]) is None
    assert all((ROOT / file).is_file() for file in SHORT_FORMS)


SLOW = """
from tests.support import figures

pytest_plugins = ["tests.support.figures"]
figures.SHORT_SECONDS = {goal}
"""
"""A run of the tests in which the short forms are to take no longer than that."""


@pytest.mark.parametrize(
    ("goal", "processes", "words", "status"),
    [
        (60, (), "at most 60)", 0),
        (1e-9, (), "at most 1e-09, MISSED)", 1),
        (1e-9, ("-n", "2"), "at most 1e-09, MISSED)", 1),
    ],
    ids=["soon", "late", "late in two processes"],
)
def test_short_forms_that_take_far_too_long_fail_a_run_of_the_tests(
    tmp_path: Path, goal: float, processes: Sequence[str], words: str, status: int
) -> None:
    for file in SHORT_FORMS:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("def test_something() -> None: ...\n")
    (tmp_path / "conftest.py").write_text(SLOW.format(goal=goal))
    (tmp_path / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", "--import-mode=importlib", "--rootdir", str(tmp_path), *processes]
    told = os.environ | {"PYTHONPATH": f"{ROOT}"}
    ran = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, check=False)
    assert words in ran.stdout, ran.stdout + ran.stderr
    assert ran.returncode == status


def test_how_long_is_far_too_long_grows_with_the_processes_that_share_a_machine() -> None:
    assert [is_far_too_long(seconds, 1) for seconds in (601, 1200, 1201)] == [False, False, True]
    assert [is_far_too_long(seconds, 2) for seconds in (1201, 2400, 2401)] == [False, False, True]
