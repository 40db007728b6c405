"""What a campaign found, as lines for the terminal and as a page that is kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date

from tests.faults.phases import AIMS, Phase
from tests.faults.strikes import CATALOGUE
from tests.faults.striking import Segment
from tests.support.figures import RESULTS, Figure, Row, of_newest_commit, table

RESULT = RESULTS / "faults.md"
GOAL_FAULTS, GOAL_TRAINERS, GOAL_SUPERVISORS, GOAL_SHOWN_SECONDS = 3000, 300, 200, 5.0


UNKNOWN = "not noted"


def name_of(segment: Segment) -> str:
    """Its commit. The first segments told none."""
    return segment.commit or UNKNOWN


def is_clean(done: Sequence[Segment], commit: str, least: int) -> bool:
    """Whether that commit was struck so often and broke no promise. What others went through says nothing of it."""
    here = [each for each in done if each.commit == commit]
    return sum(each.faults for each in here) >= least and not any(each.violations for each in here)


def figures(done: Sequence[Segment], commit: str) -> list[Row]:
    """The figures of all segments; what that commit went through alone counts for a goal."""
    here = [each for each in done if each.commit == commit]
    own = _sum(each.ended_by_themselves for each in done)
    kinds, ours = _sum(each.kinds for each in done), _sum(each.kinds for each in here)
    killed, count = _sum(each.kills_in_training for each in done), ours.total()
    broken, before = sum(len(each.violations) for each in here), sum(len(each.violations) for each in done)
    missing = [strike.kind for strike in CATALOGUE if strike.kind not in ours]
    phases = _sum(each.phases for each in done)
    told_after = [seconds for each in done for seconds in each.detections]
    return [
        Row(
            "faults",
            f"{kinds.total():,}, of which {count:,} on commit {commit}",
            f"{GOAL_FAULTS:,} on it",
            count >= GOAL_FAULTS,
        ),
        Row("violations on that commit", f"{broken}", "0", not broken),
        Row("violations on other commits", f"{before - broken}"),
        Row(
            "95 % upper bound of a violation a fault, on that commit",
            f"{3 / count:.2%}" if count and not broken else "none",
        ),
        Row("kinds not seen on that commit", ", ".join(missing) or "none", "none", not missing),
        Row("phases of the run that was hit", ", ".join(f"{phase} {phases[phase]:,}" for phase in (*AIMS, Phase.ANY))),
        _kills("one trainer on that commit", ours["trainer.kill"], GOAL_TRAINERS),
        _kills("a supervisor on that commit", ours["supervisor.kill"], GOAL_SUPERVISORS),
        Row("kills in mid-training", f"of trainers {killed['trainer']:,}, of supervisors {killed['supervisor']:,}"),
        Row("runs, attempts", f"{sum(each.runs for each in done):,}, {sum(each.attempts for each in done):,}"),
        Row("takeovers", f"{sum(each.takeovers for each in done):,}"),
        Row("of these from a checkpoint in mid-training", f"{sum(each.resumes for each in done):,}"),
        Row(
            "death of a trainer told, supervisor and Postgres well",
            _spread(told_after),
            f"≤ {GOAL_SHOWN_SECONDS:g} s",
            bool(told_after) and max(told_after) <= GOAL_SHOWN_SECONDS,
        ),
        Row("the same, whatever else was struck", _spread(seconds for each in done for seconds in each.shown)),
        Row("parts that ended by themselves", ", ".join(f"{name} {count}" for name, count in own.items()) or "none"),
        Row("studios", f"{len(done):,}, in {sum(each.clock_hours != 0 for each in done):,} a host's clock an hour off"),
        Row("time", f"{sum(s.wall_seconds for s in done):,.0f} s, {sum(s.cpu_seconds for s in done):,.0f} CPU seconds"),
    ]


def printed(done: Sequence[Segment], commit: str) -> list[str]:
    """What a campaign prints last."""
    kinds = _sum(each.kinds for each in done)
    lines = [f"  {count:5} {kind}" for kind, count in kinds.most_common()]
    return [*lines, *map(str, figures(done, commit)), *violations(done)]


def violations(done: Sequence[Segment]) -> list[str]:
    """Each with the commit that it happened on."""
    return [
        f"VIOLATION on {name_of(each)}, faults {each.first} to {each.end - 1}: {one.rule}: {one.what}"
        for each in done
        for one in each.violations
    ]


def page(done: Sequence[Segment], measured: Sequence[Figure], commit: str) -> str:
    """All of it, beside what the long forms of single tests measured."""
    kinds = _sum(each.kinds for each in done)
    intro = (
        f"# A studio under faults\n\n`make faults`, {date.today():%d %B %Y}, {os.cpu_count()} cores. Random faults strike "
        "studios of one web and two worker hosts while people launch, pause, amend, stop and resume runs; the history of each "
        "is checked.\n\n"
    )
    body = [*table(figures(done, commit)), "", *_measured(measured)]
    body += [", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()) + ".", ""]
    return intro + "\n".join([*body, *(f"- {line}" for line in violations(done))]).rstrip() + "\n"


def _measured(measured: Sequence[Figure]) -> Iterator[str]:
    """The worst of each name, of the newest commit that has any."""
    here = of_newest_commit([each for each in measured if each.is_long])
    if not here:
        return
    yield f"Single faults, each in its long form, on commit {here[-1].commit}; the worst of those measured:"
    yield from ("", "| figure | worst | measured | goal |", "|---|---|---|---|")
    for name in dict.fromkeys(each.name for each in here):
        same = [each for each in here if each.name == name]
        worst = max(same, key=lambda each: each.value)
        goal = "" if worst.goal is None else f"≤ {worst.goal:g}: {'met' if worst.value <= worst.goal else 'MISSED'}"
        yield f"| {name} | {worst.value:.1f} {worst.unit} | {len(same)} | {goal} |"
    yield ""


def _kills(whom: str, count: int, goal: int) -> Row:
    return Row(f"kills of {whom}", f"{count:,}", f"≥ {goal} of {GOAL_FAULTS:,}", count >= goal)


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counters, Counter[str]())


def _spread(values: Iterable[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "none"
    return f"{len(ordered):,} times: p95 {ordered[int(0.95 * (len(ordered) - 1))]:.2f} s, at most {ordered[-1]:.2f} s"
