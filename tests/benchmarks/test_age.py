"""How old the pages of results are. Measuring anew takes hours, so that a page is often older than the code: each such is
skipped, and its reason, which pytest prints at its end, is the list of what has to be measured again."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

import pytest

from benchmarks import rows
from tests.support.figures import MEASURED, RESULTS, ROOT

PAGES = {
    "faults.md": MEASURED,
    "fuzz.md": MEASURED,
    "soak.md": MEASURED,
    "hostile.md": (*MEASURED, "frontend", "tests/hostile"),
    "latest.json": rows.MEASURED,
}
"""What each of them measures, and what measures it."""
COMMITS = re.compile(r"""commit"?:? "?([0-9a-f]{12}(?:, [0-9a-f]{12})*)\b""")


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def has_history() -> bool:
    return (ROOT / ".git").exists() and git("rev-parse", "--is-shallow-repository") == "false"


def commits_of(text: str) -> list[str]:
    """Those that a page says it measured, the first named first."""
    return [*dict.fromkeys(commit for found in COMMITS.findall(text) for commit in found.split(", "))]


def changes_since(commit: str, paths: Sequence[str]) -> int:
    """How many later commits changed something there."""
    return int(git("rev-list", "--count", f"{commit}..HEAD", "--", *paths))


def test_the_commits_that_a_page_or_a_file_of_rows_names_are_found() -> None:
    page = "2 cores, commit 0123456789ab, 123456789abc. | on the newest commit 23456789abcd | 9 | by the rules of 3456789abcde |"
    assert commits_of(page) == ["0123456789ab", "123456789abc", "23456789abcd"]
    assert commits_of('"commit": "0123456789ab"}, {"commit": "0123456789ab+"}, {"commit": ""}') == ["0123456789ab"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_results_tells_of_what_is_here(name: str) -> None:
    if not has_history():
        pytest.skip("there is no history here that would tell")
    commits = commits_of((RESULTS / name).read_text(encoding="utf-8"))
    known = git("rev-list", "--abbrev-commit", "--abbrev=12", "HEAD").splitlines()
    assert set(commits) <= set(known), f"{name} tells of commits that are no part of this history"
    if not commits:
        pytest.skip(f"{name} names no commit")
    later = {commit: changes_since(commit, PAGES[name]) for commit in commits}
    if any(later.values()):
        told = ", ".join(f"{commit} ({count} commits since)" for commit, count in later.items() if count)
        pytest.skip(f"{name} was measured before what it measures changed: {told}")
