"""The figures of a campaign, as lines for the terminal and as a page that is kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date

from backend.core.models import Role
from tests.fuzz import parsers
from tests.fuzz.api import ANYBODY, Phase
from tests.fuzz.findings import in_words, told
from tests.fuzz.reach import Reach
from tests.fuzz.records import Record, cases
from tests.support.figures import CHANGED, RESULTS, Row, all_hold, of_newest_commit, table

RESULT = RESULTS / "fuzz.md"
GOAL_CASES, GOAL_LIVES, GOAL_INPUTS = 10_000, 800, 4_000
"""Requests of people who are signed in, lives of each state machine, and inputs of each reader."""
MACHINES = {"life": "lives of a run", "uploading": "lives of an upload"}
ASKED = [(who, phase) for who in (*Role, ANYBODY) for phase in Phase]
OF_EVERY_OPERATION = (Phase.FUZZING, Phase.COVERAGE)
"""Phases that ask each operation in turn; sequences go where answers lead."""


def goals(records: Sequence[Record], commit: str) -> list[Row]:
    """What the campaign is for. What that commit went through alone counts, and it has to be one: all edits since a commit have
    one name, so that what was tried on some of them says nothing of the others."""
    here = _on(commit, records)
    found = findings(records)
    return [
        Row("commit", commit, "nothing changed since", not commit.endswith(CHANGED)),
        *_goals_of_the_api(_of(here, "api")),
        *(_reached(what, cases(_of(here, name)), GOAL_LIVES) for name, what in MACHINES.items()),
        _reached("inputs of the reader that got the fewest", _fewest(_of(here, "parsers")), GOAL_INPUTS),
        Row("findings", f"{len(found):,}", "0", not found),
    ]


def _goals_of_the_api(asked: Sequence[Record]) -> list[Row]:
    broken = {status: count for status, count in _kinds(asked).items() if status >= "5"}  # "no answer" too
    signed_in = [each for each in asked if each.who != ANYBODY]
    stateful = [each for each in signed_in if each.what == Phase.STATEFUL]
    fuzzed = [each for each in signed_in if each.what == Phase.FUZZING]
    tried = {(each.who, each.what) for each in asked if each.cases and not each.was_cut}
    everything = _reach(asked).described
    least = min((len(each.reach.asked) for each in _summed(asked) if each.what in OF_EVERY_OPERATION), default=0)
    return [
        _reached("requests to the API of people who are signed in", cases(signed_in), GOAL_CASES),
        _some("of these in random fuzzing", cases(fuzzed)),
        _some("of these in sequences", cases(stateful)),
        _some("sequences in which an answer led to a request", sum(each.steps for each in stateful)),
        Row("phases, each as everybody", f"{len(tried)} of {len(ASKED)}", "all", tried == set(ASKED)),
        Row(
            "operations asked by whoever got to the fewest, in fuzzing or in coverage",
            f"{least} of {len(everything)}",
            "all",
            0 < least == len(everything),
        ),
        Row(
            "operations that succeeded at least once, for people who are signed in",
            f"{len(_reach(signed_in).succeeded)} of {len(everything)}, the others named below",
        ),
        Row("answers of 500 and above, and none at all", in_words(Counter(broken)) or "0", "0", not broken),
    ]


def _reached(what: str, count: int, goal: int) -> Row:
    return Row(what, f"{count:,}", f"≥ {goal:,}", count >= goal)


def _some(what: str, count: int) -> Row:
    return Row(what, f"{count:,}", "some", count > 0)


def _reach(rounds: Iterable[Record]) -> Reach:
    return Reach.of_all(each.reach for each in rounds)


def _refused(here: Sequence[Record]) -> list[str]:
    """Operations that succeeded for nobody who is signed in. No goal is set for them: what a valid request needs, as the right
    password or an upload's own offset, it is given by chance; which they are is to be seen."""
    return _reach(each for each in here if each.who != ANYBODY).refused


def _on(commit: str, records: Sequence[Record]) -> list[Record]:
    return [each for each in records if each.commit == commit]


def _of(records: Sequence[Record], fuzzer: str) -> list[Record]:
    return [each for each in records if each.fuzzer == fuzzer]


def _fewest(read: Sequence[Record]) -> int:
    return min(cases([each for each in read if each.what == name]) for name in parsers.TARGETS)


def findings(records: Sequence[Record]) -> list[str]:
    """Those of the commit that each fuzzer tried last, each once. What an earlier one did is no longer its fault; what another
    fuzzer has tried since says nothing of it."""
    fuzzers = dict.fromkeys(each.fuzzer for each in records)
    newest = [each for name in fuzzers for each in of_newest_commit(_of(records, name))]
    return list(dict.fromkeys(f"{found} ({each.fuzzer}, {each.commit})" for each in newest for found in each.findings))


def is_clean(records: Sequence[Record], commit: str) -> bool:
    """Whether that commit went through all of it, and nothing was found."""
    return all_hold(goals(records, commit))


def is_whole(records: Sequence[Record], commit: str) -> bool:
    """Whether a page of it says anything: every goal of how much was tried is met."""
    return all_hold(row for row in goals(records, commit) if row.goal != "0")


def printed(records: Sequence[Record], commit: str) -> list[str]:
    """What a campaign prints last: what was tried on that commit, over all calls."""
    here = _on(commit, records)
    lines = [
        f"{' '.join(filter(None, (each.fuzzer, each.what, each.who)))}: {told(each.cases, each.steps, each.seconds, each.kinds)}"
        for each in _summed(here)
    ]
    refused = f"never succeeded for anybody who is signed in: {', '.join(_refused(here)) or 'no operation'}"
    return [*lines, *map(str, goals(records, commit)), refused, *(f"FOUND: {each}" for each in findings(records))]


def page(records: Sequence[Record], commit: str) -> str:
    """All of it."""
    intro = (
        f"# Random input\n\n`make fuzz`, {date.today():%d %B %Y}, {os.cpu_count()} cores, commit {commit}. The API "
        "is tried by its own description, as each role; the life of a run and resumable uploads against small models; every "
        "reader of what strangers write with input that is almost right: some thousand inputs each, made of good ones by random "
        "changes and led by no coverage, which is minutes of computing and not the CPU-hours of a coverage-guided fuzzer.\n\n"
    )
    here = _on(commit, records)
    refused = ", ".join(f"`{each}`" for each in _refused(here)) or "none"
    never = f"Operations that never succeeded for anybody who is signed in, so that only their refusals were tried: {refused}."
    found = (f"- {each}" for each in findings(records))
    lines = [
        *table(goals(records, commit)),
        "",
        never,
        "",
        *_table_of_the_api(_of(here, "api")),
        *_tables(here),
        *found,
    ]
    return intro + "\n".join(lines).rstrip() + "\n"


def _table_of_the_api(asked: Sequence[Record]) -> Iterator[str]:
    """With what ended the rounds of each phase and how far they got."""
    yield "| as | phase | rounds ended | operations asked | succeeded | requests | sequences | seconds | answers |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for each in _summed(asked):
        ends = Counter(str(one.end) for one in asked if (one.who, one.what) == (each.who, each.what))
        yield (
            f"| {each.who} | {each.what} | {in_words(ends)} "
            f"| {len(each.reach.asked)} of {len(each.reach.described)} | {len(each.reach.succeeded)} "
            f"| {each.cases:,} | {each.steps:,} | {each.seconds:,.0f} | {in_words(each.kinds)} |"
        )
    yield ""


def _tables(here: Sequence[Record]) -> Iterator[str]:
    summed = _summed(here)
    yield from ("| state machine | lives | steps | seconds |", "|---|---|---|---|")
    for each in summed:
        if each.fuzzer in MACHINES:
            yield f"| {each.what} | {each.cases:,} | {each.steps:,} | {each.seconds:,.0f} |"
    yield from ("", "| reader | inputs | seconds |", "|---|---|---|")
    for each in summed:
        if each.fuzzer == "parsers":
            yield f"| {each.what} | {each.cases:,} | {each.seconds:,.0f} |"
    yield ""


def _summed(records: Sequence[Record]) -> list[Record]:
    """One for each thing that was tried and for whoever asked, in the order in which each was tried first."""
    summed: dict[tuple[str, str, str], Record] = {}
    for each in records:
        key = (each.fuzzer, each.what, each.who)
        before = summed.get(key, Record(each.fuzzer, each.seed, each.what, each.who))
        summed[key] = Record(
            *key[:1],
            each.seed,
            *key[1:],
            cases=before.cases + each.cases,
            steps=before.steps + each.steps,
            seconds=before.seconds + each.seconds,
            kinds=before.kinds + each.kinds,
            reach=_reach([before, each]),
        )
    return list(summed.values())


def _kinds(records: Sequence[Record]) -> Counter[str]:
    return sum((each.kinds for each in records), Counter[str]())
