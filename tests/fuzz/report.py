"""The figures of a campaign, as lines for the terminal and as a page that is kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date

from tests.fuzz.api import ANYBODY, Phase
from tests.fuzz.findings import in_words, told
from tests.fuzz.records import Record, cases
from tests.support.figures import RESULTS, Row, of_newest_commit, table

RESULT = RESULTS / "fuzz.md"
GOAL_CASES = 10_000


def goals(records: Sequence[Record]) -> list[Row]:
    """What the campaign is for."""
    asked = [each for each in records if each.fuzzer == "api"]
    signed_in = [each for each in asked if each.who != ANYBODY]
    broken = {status: count for status, count in _kinds(asked).items() if status >= "5"}  # "no answer" too
    stateful = [each for each in signed_in if each.what == Phase.STATEFUL]
    fuzzed = [each for each in signed_in if each.what == Phase.FUZZING]
    led, found = sum(each.steps for each in stateful), findings(records)
    return [
        Row(
            "requests to the API of people who are signed in",
            f"{cases(signed_in):,}",
            f"≥ {GOAL_CASES:,}",
            cases(signed_in) >= GOAL_CASES,
        ),
        Row("of these in random fuzzing", f"{cases(fuzzed):,}", "some", cases(fuzzed) > 0),
        Row("of these in sequences", f"{cases(stateful):,}", "some", cases(stateful) > 0),
        Row("sequences in which an answer led to a request", f"{led:,}", "some", led > 0),
        Row("answers of 500 and above, and none at all", in_words(Counter(broken)) or "0", "0", not broken),
        Row("findings", f"{len(found):,}", "0", not found),
    ]


def findings(records: Sequence[Record]) -> list[str]:
    """Those of the newest commit, each once. What an earlier one did is no longer its fault."""
    return list(dict.fromkeys(found for each in of_newest_commit(records) for found in each.findings))


def is_whole(records: Sequence[Record]) -> bool:
    """Whether a page of it says anything: every goal of how much was tried is met."""
    return bool(records) and all(row.holds for row in goals(records) if row.goal != "0")


def printed(records: Sequence[Record]) -> list[str]:
    """What a campaign prints last, over all calls."""
    lines = [
        f"{' '.join(filter(None, (each.fuzzer, each.what, each.who)))}: {told(each.cases, each.steps, each.seconds, each.kinds)}"
        for each in _summed(records)
    ]
    return [*lines, *map(str, goals(records)), *(f"FOUND: {each}" for each in findings(records))]


def page(records: Sequence[Record]) -> str:
    """All of it."""
    commits = list(dict.fromkeys(each.commit for each in records))
    intro = (
        f"# Random input\n\n`make fuzz`, {date.today():%d %B %Y}, {os.cpu_count()} cores, commit {', '.join(commits)}. The API "
        "is tried by its own description, as each role; the life of a run and resumable uploads against small models; every "
        "reader of what strangers write with input that is almost right.\n\n"
    )
    return (
        intro
        + "\n".join(
            [*table(goals(records)), "", *_tables(records), *(f"- {each}" for each in findings(records))]
        ).rstrip()
        + "\n"
    )


def _tables(records: Sequence[Record]) -> Iterator[str]:
    summed = _summed(records)
    yield from ("| as | phase | requests | sequences | seconds | answers |", "|---|---|---|---|---|---|")
    for each in summed:
        if each.fuzzer == "api":
            yield f"| {each.who} | {each.what} | {each.cases:,} | {each.steps:,} | {each.seconds:,.0f} | {in_words(each.kinds)} |"
    yield from ("", "| state machine | lives | steps | seconds |", "|---|---|---|---|")
    for each in summed:
        if each.fuzzer in ("life", "uploading"):
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
        )
    return list(summed.values())


def _kinds(records: Sequence[Record]) -> Counter[str]:
    return sum((each.kinds for each in records), Counter[str]())
