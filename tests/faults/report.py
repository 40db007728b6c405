"""What a campaign found, as lines for the terminal and as a page that is kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

from tests.faults.people import WORDS as SAID
from tests.faults.phases import AIMS, Phase
from tests.faults.strikes import CATALOGUE
from tests.faults.striking import Plan, Segment
from tests.support.figures import CHANGED, RESULTS, Figure, Row, all_hold, rules_of, table

RESULT = RESULTS / "faults.md"
T = TypeVar("T")
Judged = Callable[[str], str]
"""Gives the commit of the rules by which a commit was struck and judged."""
GOAL_FAULTS, GOAL_NEWEST, GOAL_TRAINERS, GOAL_SUPERVISORS = 3000, 300, 300, 200
GOAL_SHOWN_SECONDS, GOAL_OUTLIVED_SECONDS = 5.0, 2.0
AWAY_SECONDS = 300
"""How long Postgres and Valkey stay away in the long form."""
UNKNOWN = "not noted"


@dataclass(frozen=True)
class Single:
    """A figure that the long form of a test is to note: how often, once for each case, and how much it is at least."""

    name: str
    times: int = 1
    least: float | None = None


STOPPED_IN = ("fetching", "loading", "preparing", "training", "evaluating", "sampling", "saving", "exporting")
WORDS = 3
"""Of a person, who pauses a run, stops it or keeps what it has."""
HINDRANCES = ("Postgres was away", "Postgres stood still", "the web was killed", "Valkey was away")
"""During which training keeps its pace."""
SINGLES = (
    Single("the death of a trainer can be read over the API"),
    Single("a dead host's run is claimed by another"),
    Single("a dead host's run trains again"),
    *(
        Single(f"pause, stop or keep while {phase}: {what}", WORDS)
        for phase in STOPPED_IN
        for what in ("the run rests", "the accelerator is free")
    ),
    Single("Postgres was away", least=AWAY_SECONDS),
    Single("Postgres was away: the history and the page are complete again after"),
    *(Single(f"{what}: a step takes, of its usual time") for what in HINDRANCES),
    Single("the web was killed: the page is complete again after"),
    Single("a request that meets a frozen Postgres is answered"),
    Single("a browser that was offline for 30 s is complete"),
)
"""Without one of them a campaign is not whole."""


def name_of(segment: Segment) -> str:
    """Its commit. The first segments told none."""
    return segment.commit or UNKNOWN


def row_of(done: Sequence[Segment], commit: str, judged_by: Judged = rules_of) -> list[Segment]:
    """Faults in a row, up to what is here now: what was struck and judged by the rules of that commit, on whatever commits of
    the product, since the last promise that was broken, and on none that broke one. Where these rules are no commit's, only
    what was struck on just that."""
    rules, broke = judged_by(commit), [place for place, each in enumerate(done) if each.violations]
    broken = {done[place].commit for place in broke}
    since = done[broke[-1] + 1 :] if broke else done
    alike = {each: each == commit or (rules and judged_by(each) == rules) for each in {each.commit for each in since}}
    return [each for each in since if alike[each.commit] and each.commit not in broken]


def missing(plan: Plan, done: Sequence[Segment], commit: str, judged_by: Judged = rules_of) -> int:
    """How many faults are to come until the row is as long as planned, and a tenth of it struck what is here: none where that
    broke a promise already, so that nothing that strikes it will count."""
    here = [each for each in done if each.commit == commit]
    if any(each.violations for each in here):
        return 0
    return max(plan.faults - _faults(row_of(done, commit, judged_by)), plan.faults // 10 - _faults(here))


def is_whole(done: Sequence[Segment], measured: Sequence[Figure], commit: str, judged_by: Judged = rules_of) -> bool:
    """Whether every goal of the page is met."""
    return all_hold([*figures(done, commit, judged_by), *singles(measured)])


def is_clean(done: Sequence[Segment], commit: str, least: int) -> bool:
    """Whether that commit was struck so often, broke no promise and left nothing that no row names, which is all that is asked
    of faults that are repeated. What other commits went through says nothing of it."""
    here = [each for each in done if each.commit == commit]
    return _faults(here) >= least and not any(each.violations or each.unnamed for each in here)


def figures(done: Sequence[Segment], commit: str, judged_by: Judged = rules_of) -> list[Row]:
    """The figures of all segments; the row that goes up to that commit alone counts for a goal."""
    here = row_of(done, commit, judged_by)
    own = _sum(each.ended_by_themselves for each in done)
    return [
        _unchanged("commit", commit),
        *_struck(done, here, commit, judged_by(commit) or commit),
        *_struck_where(done, here),
        *_brought_and_kept(done, here),
        *_deaths(done, here),
        Row("parts that ended by themselves", ", ".join(f"{name} {count}" for name, count in own.items()) or "none"),
        Row("studios", f"{len(done):,}, in {sum(each.clock_hours != 0 for each in done):,} a host's clock an hour off"),
        Row("time", f"{sum(s.wall_seconds for s in done):,.0f} s, {sum(s.cpu_seconds for s in done):,.0f} CPU seconds"),
    ]


def _struck(done: Sequence[Segment], here: Sequence[Segment], commit: str, rules: str) -> list[Row]:
    """How often, and what broke before."""
    count, newest = _faults(here), _faults(each for each in here if each.commit == commit)
    bound = f"{3 / count:.2%}" if count else "none"  # the rule of three
    return [
        Row(
            f"faults in a row without a broken promise, by the rules of {rules}",
            f"{count:,}",
            f"{GOAL_FAULTS:,}",
            count >= GOAL_FAULTS,
        ),
        Row(f"of which on the newest commit {commit}", f"{newest:,}", f"{GOAL_NEWEST:,}", newest >= GOAL_NEWEST),
        Row("on how many commits of the product", f"{len({each.commit for each in here}):,}"),
        Row("faults in all, by all rules", f"{_faults(done):,}"),
        Row("violations before the row", f"{sum(len(each.violations) for each in done):,}"),
        Row("95 % upper bound of a violation a fault, in the row", bound),
    ]


def _struck_where(done: Sequence[Segment], here: Sequence[Segment]) -> list[Row]:
    """Of what kinds, and what the run that was hit was doing."""
    kinds, phases = _sum(each.kinds for each in here), _sum(each.phases for each in here)
    missing = [_missing(strike.kind, here) for strike in CATALOGUE if strike.kind not in kinds]
    killed = _sum(each.kills_in_training for each in done)
    return [
        Row("kinds not seen in the row", ", ".join(missing) or "none", "none", not missing),
        Row(
            "phases of the run that was hit, in the row",
            ", ".join(f"{phase} {phases[phase]:,}" for phase in (*AIMS, Phase.ANY)),
            f"each but {Phase.ANY}",
            all(phases[phase] for phase in AIMS),
        ),
        _kills("one trainer in the row", kinds["trainer.kill"], GOAL_TRAINERS),
        _kills("a supervisor in the row", kinds["supervisor.kill"], GOAL_SUPERVISORS),
        Row("kills in mid-training", f"of trainers {killed['trainer']:,}, of supervisors {killed['supervisor']:,}"),
    ]


def _brought_and_kept(done: Sequence[Segment], here: Sequence[Segment]) -> list[Row]:
    """What people did meanwhile, and what is left of it on disk."""
    said = _sum(each.said for each in here)
    unnamed = sum(len(each.unnamed) for each in here)
    return [
        Row("runs, attempts", f"{sum(each.runs for each in done):,}, {sum(each.attempts for each in done):,}"),
        _errands(here),
        Row(
            "words of people in the row",
            ", ".join(f"{word} {said[word]:,}" for word in SAID),
            "each at least once",
            all(said[word] for word in SAID),
        ),
        _judged(
            "words to pause, stop or keep that had to be obeyed at once, in the row", here, lambda each: each.obeyed
        ),
        Row(
            "checkpoints and artifacts that no row names and nobody adopts, in the row",
            f"{unnamed:,}",
            "0",
            not unnamed,
        ),
        Row(
            "checkpoints read when they had just been published, in the row",
            f"{sum(each.checkpoints_read for each in here):,}",
            "some in each studio",
            _in_each(here, lambda each: each.checkpoints_read),
        ),
    ]


def _deaths(done: Sequence[Segment], here: Sequence[Segment]) -> list[Row]:
    """Who went on with a run, and how soon a death was told."""
    outlived = [seconds for each in here for seconds in each.outlived]
    told_after = [seconds for each in here for seconds in each.detections]
    heard = [seconds for each in here for seconds in each.heard]
    return [
        Row("takeovers", f"{sum(each.takeovers for each in done):,}"),
        Row("of these from a checkpoint in mid-training", f"{sum(each.resumes for each in done):,}"),
        _judged("trainers preempted that had to lose no step, in the row", here, lambda each: each.preempted),
        Row(
            "death of a trainer told with its cause, in the row, supervisor and Postgres well",
            _spread(told_after),
            f"≤ {GOAL_SHOWN_SECONDS:g} s",
            bool(told_after) and max(told_after) <= GOAL_SHOWN_SECONDS,
        ),
        Row(
            "the same with who follows its run, the web and its links well too",
            _spread(heard),
            f"≤ {GOAL_SHOWN_SECONDS:g} s",
            bool(heard) and max(heard) <= GOAL_SHOWN_SECONDS,
        ),
        Row(
            "death of a trainer that was killed told at all times, whatever else was struck",
            _spread(seconds for each in done for seconds in each.shown),
        ),
        Row(
            "a trainer outlives its supervisor, in the row",
            _spread(outlived),
            f"≤ {GOAL_OUTLIVED_SECONDS:g} s",
            bool(outlived) and max(outlived) <= GOAL_OUTLIVED_SECONDS,
        ),
    ]


def printed(done: Sequence[Segment], commit: str, judged_by: Judged = rules_of) -> list[str]:
    """What a campaign prints last."""
    kinds = _sum(each.kinds for each in done)
    lines = [f"  {count:5} {kind}" for kind, count in kinds.most_common()]
    return [*lines, *map(str, figures(done, commit, judged_by)), *violations(done)]


def violations(done: Sequence[Segment]) -> list[str]:
    """Each with the commit that it happened on."""
    return [
        f"VIOLATION on {name_of(each)}, faults {each.first} to {each.end - 1}: {one.rule}: {one.what}"
        for each in done
        for one in each.violations
    ]


def singles(measured: Sequence[Figure]) -> list[Row]:
    """What single tests are to have measured in their long form, and what else they did: the worst of each name."""
    commits = dict.fromkeys(each.commit for each in measured)
    due = {each.name: each for each in SINGLES}
    others = {each.name: Single(each.name) for each in measured if each.name not in due}
    rows = [_single(each, [one for one in measured if one.name == each.name]) for each in (due | others).values()]
    return [*(_unchanged("commit of single faults", commit) for commit in commits), *rows]


def _single(due: Single, same: Sequence[Figure]) -> Row:
    if not same:
        return Row(due.name, "not measured on this commit", "measured", False)
    worst = max(same, key=lambda each: each.value)
    found = f"{worst.value:.1f} {worst.unit}, the worst of {len(same)}"
    if len(same) < due.times:
        return Row(due.name, found, f"measured {due.times} times", False)
    if due.least is not None:
        return Row(due.name, found, f"≥ {due.least:g} {worst.unit}", worst.value >= due.least)
    if worst.goal is None:
        return Row(due.name, found)
    return Row(due.name, found, f"≤ {worst.goal:g} {worst.unit}", worst.value <= worst.goal)


def page(done: Sequence[Segment], measured: Sequence[Figure], commit: str, judged_by: Judged = rules_of) -> str:
    """All of it, beside what the long forms of single tests measured."""
    kinds = _sum(each.kinds for each in done)
    intro = (
        f"# A studio under faults\n\n`make faults`, {date.today():%d %B %Y}, {os.cpu_count()} cores. Random faults strike "
        "studios of one web and two worker hosts while people launch, pause, amend, stop, restore and resume runs, bring files "
        "and fetch artifacts; the history of each is checked. Faults in a row are those that the same rules struck and judged, "
        "on whatever commits of the product, since a promise was broken for the last time; no commit that broke one counts.\n\n"
    )
    commits = ", ".join(dict.fromkeys(each.commit for each in measured)) or commit
    body = [
        *table(figures(done, commit, judged_by)),
        "",
        f"Single faults, each in its long form, on commit {commits}:",
        "",
    ]
    body += [*table(singles(measured)), ""]
    body += [", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()) + ".", ""]
    return intro + "\n".join([*body, *(f"- {line}" for line in violations(done))]).rstrip() + "\n"


def _unchanged(what: str, commit: str) -> Row:
    """All edits since a commit have one name: what was measured on some of them says nothing of the others."""
    return Row(what, commit, "nothing changed since", not commit.endswith(CHANGED))


def _errands(here: Sequence[Segment]) -> Row:
    """Those of the courier. Files are brought to every studio; artifacts are there to fetch once a run has succeeded, which in
    a studio that is struck may be at its end."""
    counts = [(each.sent, each.read_later, each.fetched) for each in here]
    brought, later, fetched = map(sum, zip(*counts, strict=True)) if counts else (0, 0, 0)
    found = f"{brought:,}, {later:,} of them read in the background, {fetched:,}"
    what = "files brought from the first strike on, and files of artifacts fetched, in the row"
    is_met = bool(fetched) and _in_each([(sent, read_later) for sent, read_later, _ in counts], all)
    return Row(what, found, "some fetched, and some brought, of both kinds, in each studio", is_met)


def _judged(what: str, here: Sequence[Segment], count: Callable[[Segment], int]) -> Row:
    """How often a promise could have been seen to be broken: a rule that never could is none."""
    judged = sum(map(count, here))
    return Row(what, f"{judged:,}", "some", judged > 0)


def _in_each(here: Sequence[T], has_some: Callable[[T], object]) -> bool:
    return bool(here) and all(map(has_some, here))


def _missing(kind: str, here: Sequence[Segment]) -> str:
    """A kind that was not seen. Where no machine let it strike it is missing all the same: nothing is known of it."""
    refused = here and all(kind in each.impossible for each in here)
    return f"{kind} (this machine does not let it strike)" if refused else kind


def _kills(whom: str, count: int, goal: int) -> Row:
    return Row(f"kills of {whom}", f"{count:,}", f"≥ {goal} of {GOAL_FAULTS:,}", count >= goal)


def _faults(segments: Iterable[Segment]) -> int:
    return sum(each.faults for each in segments)


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counters, Counter[str]())


def _spread(values: Iterable[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "none"
    return f"{len(ordered):,} times: p95 {ordered[int(0.95 * (len(ordered) - 1))]:.2f} s, at most {ordered[-1]:.2f} s"
