"""What a benchmark found out: one row a goal, ours beside the peer's, and the file that keeps the latest of each."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LATEST = ROOT / "benchmarks" / "results" / "latest.json"
MEASURED = (
    *("backend", "worker", "migrations", "frontend", "hatch_build.py", "requirements-dev.lock"),
    *("benchmarks", ":!benchmarks/results", "tests/support"),
)
"""Whose change makes figures those of an earlier commit: the product, and what measures it."""
CHANGED = "+"
"""Marks a commit that does not hold all that was measured."""
MOST_GROWTH = {
    **dict.fromkeys(("1a-growth", "1b-growth", "1c-growth", "2a-growth", "2b-growth", "2c-growth"), 1.25),
    "3a-growth": 2.5,  # as many columns are painted of any number of points, but all are looked through for extremes
    "3b-growth": 1.5,  # as many buckets are read of a curve of any length
    **dict.fromkeys(("5a-growth", "5a-large"), 1.25),  # what still grows is the largest tensor, which is held whole
    **dict.fromkeys(("7a-growth", "7b-growth", "7c-growth"), 1.25),
    "click-growth": 1.5,  # each row is read and prepared once; what the clock tells of a few rounds is rough
    "pages-growth": 2,  # as many runs are drawn of any number, but all are counted
}
"""How many times a smaller size's cost a larger one's may be, in a row of that id."""


@dataclass(frozen=True)
class Asked:
    """What is to be measured: the ids that were named, all where none was; `long` adds what takes many minutes."""

    ids: frozenset[str] = frozenset()
    long: bool = False

    def wants(self, row_id: str) -> bool:
        return not self.ids or row_id in self.ids


@dataclass(frozen=True)
class Row:
    """One goal. `ratio` is how many times ours is better. `holds` is None where nothing is promised, only told.

    `beside` says what makes the comparison fair: that losses, ids or bytes were the same, and the versions of the peer.
    `date` and `commit` are written when it is kept.
    """

    id: str
    what: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    goal: str
    holds: bool | None
    beside: str = ""
    date: str = ""
    commit: str = ""


def row(
    row_id: str,
    what: str,
    unit: str,
    ours: float,
    peer: float | None = None,
    *,
    more_is_better: bool = False,
    least_ratio: float | None = None,
    least: float | None = None,
    most: float | None = None,
    equal: bool = True,
    beside: str = "",
) -> Row:
    """A row from two figures of one unit. It holds where every goal is met and both sides did the same (`equal`)."""
    ratio = None if peer is None else (ours / peer if more_is_better else peer / ours)
    goals, met = [], [equal]
    if least_ratio is not None:
        goals.append(f"≥ {least_ratio:g}×")
        met.append(ratio is not None and ratio >= least_ratio)
    if least is not None:
        goals.append(f"≥ {least:g} {unit}")
        met.append(ours >= least)
    if most is not None:
        goals.append(f"≤ {most:g} {unit}")
        met.append(ours <= most)
    return Row(row_id, what, ours, peer, unit, ratio, ", ".join(goals), all(met) if goals else None, beside)


def growth(
    row_id: str,
    what: str,
    costs: Sequence[float],
    *,
    at: Iterable[int | str],
    of: str,
    unit: str,
    digits: int = 2,
    times: str = "× the time",
) -> Row:
    """How a cost grows with the work, at most, from any size to any larger one: what a small size costs once would hide in the
    first of them what grows between the others. `at` are the sizes, counted in `of`. Raises `ValueError` where something cost
    nothing, to which nothing can be compared."""
    sizes = ", ".join(each if isinstance(each, str) else f"{each:,}" for each in at)
    told = " → ".join(f"{each:,.{digits}f}" for each in costs)
    if min(costs) <= 0:
        raise ValueError(f"{row_id}: a cost of nothing has no growth: {told} {unit}")
    worst = max(more / less for less, more in combinations(costs, 2))
    return row(row_id, what, times, worst, most=MOST_GROWTH[row_id], beside=f"{sizes} {of}: {told} {unit}")


def keep(rows: Sequence[Row], commit: str, path: Path = LATEST) -> bool:
    """Write the rows of this commit into the file; they replace all that it held under their ids, and the others stay. Nothing is
    kept, and False told, where no commit holds all that was measured: nobody could measure that again."""
    if commit.endswith(CHANGED):
        return False
    new, date = {each.id for each in rows}, time.strftime("%Y-%m-%d")
    old: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = [each for each in old if each["id"] not in new] + [
        _rounded(replace(each, date=date, commit=commit)) for each in rows
    ]
    kept.sort(key=lambda each: _order(each["id"]))
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


def measured_commit(*, before: str | None = None, root: Path = ROOT) -> str:
    """The last commit that changed what is measured, marked where more was changed since, be it since the answer `before`;
    nothing where git cannot tell."""
    if not (shutil.which("git") and (root / ".git").exists()):
        return ""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words, "--", *MEASURED]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()

    commit, changed = git("log", "-1", "--format=%h", "--abbrev=12"), git("status", "--porcelain")
    return commit + CHANGED * (bool(changed) or before not in (None, commit))


def missed(rows: Iterable[Row]) -> str:
    """The ids of the rows that miss their goals, for a closing line."""
    ids = dict.fromkeys(each.id for each in rows if each.holds is False)
    return f"missed: {', '.join(ids)}" if ids else "no goal was missed"


def _rounded(found: Row) -> dict[str, Any]:
    """Four digits: more would pretend that a second run gives the same."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in asdict(found).items()}


def _order(row_id: str) -> tuple[int, str]:
    """1a before 2a before 10a, and words behind the numbers."""
    number = re.match(r"\d+", row_id)
    return (int(number[0]) if number else 1 << 30, row_id)


def table(rows: Iterable[Row]) -> str:
    """The rows for a terminal, one line each, and what stands beside under it."""
    lines = []
    for each in rows:
        peer = "" if each.peer is None else f"  peer {each.peer:.4g}"
        ratio = "" if each.ratio is None else f"  {each.ratio:.2f}×"
        verdict = {True: "holds", False: "MISSED", None: ""}[each.holds]
        goal = f"  [{each.goal}: {verdict}]" if each.goal else ""
        lines.append(f"{each.id:<6} {each.what:<52} {each.ours:.4g} {each.unit}{peer}{ratio}{goal}")
        lines += [f"{'':<6}   {each.beside}"] if each.beside else []
    return "\n".join(lines)
