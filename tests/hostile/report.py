"""What each row of the table took, as lines for the terminal and as a page that is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from tests.hostile.rows import OTHERWISE, ROWS, WITHOUT
from tests.hostile.studio import IN_A_BROWSER, INNOCENT, MIB, SECONDS, Cost
from tests.support.figures import CHANGED, RESULTS, Row, table

RESULT = RESULTS / "hostile.md"
MOST_MB = 512
MOST_LOAD = 1.0
"""Of the last minute before the first attack: what else is busy takes its time from what is measured."""
NUMBER = re.compile(r"(\d+) ")
"""What the name of an attack begins with that belongs to a row."""
GOAL = f"≤ {SECONDS:g} s and ≤ {MOST_MB} MB"


@dataclass(frozen=True)
class Taken:
    """What the attacks of one row took at the most, each measured alone."""

    number: int
    attacks: int
    seconds: float
    """Until the API or the page that it draws had answered."""
    browser_seconds: float | None
    """Until somebody in a browser saw the words; `None` where no browser is needed to see more."""
    processor_seconds: float
    """Of everything that took part, in the attack that took the most of it: more than by the clock where several work at once."""
    memory_mb: float

    @property
    def holds(self) -> bool:
        return max(self.seconds, self.browser_seconds or 0) <= SECONDS and self.memory_mb <= MOST_MB

    @property
    def row(self) -> Row:
        comes, says = ROWS[self.number]
        browser = "" if self.browser_seconds is None else f", in a browser {self.browser_seconds:.2f} s"
        found = f"{self.seconds:.2f} s{browser}, {self.memory_mb:.0f} MB"
        return Row(f"{self.number} {comes} → {says}", found, GOAL, self.holds)


def taken(costs: Mapping[str, Cost]) -> list[Taken]:
    """The rows that were measured, in the order of the table. What belongs to none is left out."""
    of_rows: dict[int, dict[str, Cost]] = {}
    for what, cost in costs.items():
        if found := NUMBER.match(what):
            of_rows.setdefault(int(found[1]), {})[what] = cost
    return [_taken(number, of_rows[number]) for number in sorted(of_rows)]


def _taken(number: int, costs: Mapping[str, Cost]) -> Taken:
    asked = [cost.answer_seconds for what, cost in costs.items() if not what.endswith(IN_A_BROWSER)]
    looked = [cost.answer_seconds for what, cost in costs.items() if what.endswith(IN_A_BROWSER)]
    most = max(cost.all_mib for cost in costs.values()) * MIB / 1e6
    processor = max(cost.cpu_seconds for cost in costs.values())
    return Taken(number, len(costs), max(asked, default=0.0), max(looked, default=None), processor, most)


def goals(found: Sequence[Taken]) -> list[Row]:
    """What the table promises, over all of its rows."""
    wanted = set(ROWS) - set(WITHOUT)
    missed = ", ".join(str(each.number) for each in found if not each.holds)
    return [
        Row(
            "rows measured", f"{len(found)} of {len(ROWS)}", f"{len(wanted)}", {each.number for each in found} == wanted
        ),
        Row("rows over 2 s or 512 MB", missed or "none", "none", not missed),
        Row("longest answer", f"{max((each.seconds for each in found), default=0):.2f} s"),
        Row(
            "longest until a browser showed it",
            f"{max((each.browser_seconds or 0 for each in found), default=0):.2f} s",
        ),
        Row("most memory", f"{max((each.memory_mb for each in found), default=0):.0f} MB"),
    ]


def reasons_against_keeping(found: Sequence[Taken], commit: str, load: float) -> list[str]:
    """Why a page of these figures would tell of something else than the studio of that commit, on a machine of its own."""
    missed = [str(each) for each in goals(found) if each.holds is False]
    changed = [f"something was changed since {commit.removesuffix(CHANGED)}"] if commit.endswith(CHANGED) else []
    busy = [f"the machine was busy as it began: a load of {load:.1f}"] if load > MOST_LOAD else []
    return [*missed, *changed, *busy]


def printed(costs: Mapping[str, Cost]) -> list[str]:
    """What is printed last."""
    found = taken(costs)
    return [*(str(each.row) for each in found), *map(str, goals(found))]


def page(costs: Mapping[str, Cost], commit: str, load: float) -> str:
    """All of it."""
    found = taken(costs)
    intro = (
        f"# Hostile input\n\n`make hostile`, {date.today():%d %B %Y}, {os.cpu_count()} cores, load {load:.1f} as it began, "
        f"commit {commit}. Each row of the table of hostile inputs is sent to a real studio, one attack after the other. "
        "*Answer* is by the clock, from a request's last byte to the last of its answer, or to the end of the work that this "
        "promised; *in a browser* from a choice, a click or a change of the text until the words stand there, with all that "
        "is sent for it; *processor* is the most that the web and all that it started used for one attack. *Memory* is "
        "the most that was resident at once, of the web and of all that it started, with what lay "
        "there before, libraries that they share counted once; in row 56 that of a trainer. Each is the most that any attack of "
        "the row took, behind an innocent input of its kind, which has imported what reads it. Tests share their cores with "
        "other tests, so `make test` holds the processor's time to 2 s instead, and allows the clock more.\n\n"
        "A browser looks at what a person would meet in one. Rows 61, 62 and 73 to 75 ask for the same page by HTTP, which "
        "*answer* holds, and rows 79 and 80 are asked of the API and the sign-in without a browser.\n\n"
    )
    return intro + "\n".join([*table(goals(found)), "", *_rows(found), "", *_innocent(costs), "", *_remarks()]) + "\n"


def _rows(found: Sequence[Taken]) -> Iterator[str]:
    yield (
        "| row | what comes in | what is said | attacks | answer, s | in a browser, s | processor, s | memory, MB | "
        + GOAL
        + " |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    measured = {each.number: each for each in found}
    for number, (comes, says) in ROWS.items():
        each = measured.get(number)
        figures = _figures(each) if each else "0 | | | | | not measured"
        yield f"| {number} | {comes} | {says} | {figures} |"


def _figures(each: Taken) -> str:
    browser = "" if each.browser_seconds is None else f"{each.browser_seconds:.2f}"
    took = f"{each.seconds:.2f} | {browser} | {each.processor_seconds:.2f} | {each.memory_mb:.0f}"
    return f"{each.attacks} | {took} | {'met' if each.holds else 'MISSED'}"


def _innocent(costs: Mapping[str, Cost]) -> Iterator[str]:
    yield from ("| the first innocent input of its kind | answer, s | memory, MB |", "|---|---|---|")
    for what, cost in costs.items():
        if what.startswith(INNOCENT):
            yield f"| {what.removeprefix(INNOCENT)} | {cost.answer_seconds:.2f} | {cost.all_mib * MIB / 1e6:.0f} |"


def _remarks() -> Iterator[str]:
    """Rows that are not proved as they are worded, those of one reason together."""
    reasons: dict[str, list[int]] = {}
    for number, why in (OTHERWISE | WITHOUT).items():
        reasons.setdefault(why, []).append(number)
    for why, numbers in reasons.items():
        yield f"- {', '.join(map(str, numbers))}: {why}."
