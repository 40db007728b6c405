"""A campaign's page tells what holds today from what an earlier commit broke."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from tests.faults.__main__ import LONG
from tests.faults.checker import Violation
from tests.faults.people import WORDS as SAID
from tests.faults.phases import AIMS
from tests.faults.report import (
    HINDRANCES,
    SINGLES,
    STOPPED_IN,
    WORDS,
    Single,
    figures,
    is_clean,
    is_whole,
    missing,
    page,
    printed,
    row_of,
    singles,
    violations,
)
from tests.faults.strikes import CATALOGUE
from tests.faults.striking import Plan, Segment, aim
from tests.faults.test_worker_phases import ACTIONS, PHASES
from tests.support.figures import CHANGED, ROOT, Figure, Row

BROKEN = Violation("no accepted run is lost", "run 1 is gone")
OLD = Segment(1, 7, "old", kinds=Counter({"web.kill": 3}), violations=[BROKEN])
NEW = Segment(4, 7, "new", 1, kinds=Counter({"trainer.kill": 6}), takeovers=4, resumes=3, detections=[0.5, 1.5])
ALL = Segment(
    10,
    7,
    "new",
    kinds=Counter(each.kind for each in CATALOGUE) + Counter({"trainer.kill": 3000, "supervisor.kill": 300}),
    phases=Counter(AIMS),
    sent=9,
    read_later=4,
    fetched=9,
    said=Counter(list(SAID)),
    checkpoints_read=30,
    obeyed=5,
    preempted=2,
    detections=[0.5],
    heard=[0.75],
    outlived=[0.1, 1.5],
)
GOAL = 400.0
JUDGED = {"old": "before", "earlier": "today", "new": "today", "": "", f"new{CHANGED}": ""}
"""By which rules each commit was struck and judged."""


def measured() -> list[Figure]:
    """All that single tests are to measure, each within its goal."""
    return [noted(due.name, 399.0) for due in SINGLES for _ in range(due.times)]


def noted(name: str, value: float, goal: float | None = GOAL) -> Figure:
    return Figure(name, value, "s", goal, "new", is_long=True)


def missed(rows: list[Row]) -> list[str]:
    return [row.what for row in rows if row.holds is False]


def found(*done: Segment, commit: str = "new") -> dict[str, str]:
    return {row.what: row.found for row in figures(done, commit, JUDGED.__getitem__)}


def in_a_row(*done: Segment, commit: str = "new") -> list[int]:
    """The first faults of the segments that count."""
    return [each.first for each in row_of(done, commit, JUDGED.__getitem__)]


def test_what_an_earlier_commit_broke_is_told_with_its_name_and_is_no_longer_held_against_the_newest() -> None:
    assert is_clean([OLD, NEW], "new", 6)
    assert not is_clean([OLD], "old", 3)
    assert not is_clean([OLD, replace(NEW, violations=[BROKEN])], "new", 6)
    assert not is_clean([replace(NEW, violations=[BROKEN]), replace(OLD, violations=[])], "new", 6)
    assert violations([OLD, NEW]) == ["VIOLATION on old, faults 1 to 3: no accepted run is lost: run 1 is gone"]
    assert found(OLD, NEW)["violations before the row"] == "1"


def test_repeated_faults_that_left_what_no_row_names_are_not_clean() -> None:
    assert not is_clean([replace(NEW, unnamed=["runs/1/attempt-1/checkpoints/checkpoint-4"])], "new", 6)
    assert is_clean([replace(OLD, unnamed=["runs/1/attempt-1/checkpoints/checkpoint-4"]), NEW], "new", 6)


def test_faults_by_the_same_rules_are_a_row_over_whatever_commits_of_the_product() -> None:
    earlier = Segment(1, 7, "earlier", kinds=Counter({"web.kill": 3}))
    assert in_a_row(earlier, NEW) == [1, 4]
    told = found(earlier, NEW)
    assert told["faults in a row without a broken promise, by the rules of today"] == "9"
    assert told["of which on the newest commit new"] == "6"
    assert told["on how many commits of the product"] == "2"
    assert told["95 % upper bound of a violation a fault, in the row"] == "33.33%"
    assert "web.kill" not in told["kinds not seen in the row"]


def test_a_broken_promise_ends_the_row_and_no_fault_on_its_commit_counts() -> None:
    first, second, third = (
        Segment(n, 7, commit, kinds=Counter("a")) for n, commit in enumerate(("new", "earlier", "new"))
    )
    broken = replace(second, violations=[BROKEN])
    assert in_a_row(first, second, third) == [0, 1, 2]
    assert in_a_row(first, broken, third) == [2], "nothing before it"
    assert in_a_row(first, broken, second, third) == [2], "nothing on its commit"
    assert in_a_row(first, replace(third, violations=[BROKEN]), first) == [], "nor on that which is here"
    assert in_a_row(first, replace(broken, commit="old"), third) == [2], "by whatever rules it was judged"
    assert found(first, broken, third)["violations before the row"] == "1"


def test_faults_by_other_rules_and_on_what_was_changed_since_its_commit_are_in_no_row() -> None:
    old, dirty = replace(OLD, violations=[]), replace(NEW, commit=f"new{CHANGED}", first=10)
    unnamed = Segment(16, 7, kinds=Counter("a"))
    assert in_a_row(old, dirty, unnamed, NEW) == [4]
    assert in_a_row(NEW, old, commit="old") == [1]
    assert in_a_row(NEW, dirty, unnamed, commit=f"new{CHANGED}") == [10], "they count for nothing but themselves"
    assert in_a_row(NEW, replace(dirty, violations=[BROKEN])) == [], "a promise that they broke ends a row all the same"
    told = found(old, dirty, NEW)
    assert told["faults in a row without a broken promise, by the rules of today"] == "6"
    assert told["faults in all, by all rules"] == "15"


def test_a_campaign_strikes_until_the_row_is_whole_and_a_tenth_of_it_struck_what_is_here() -> None:
    def left(*done: Segment) -> int:
        return missing(Plan(300), done, "new", JUDGED.__getitem__)

    here, earlier = (Segment(4, 7, commit, kinds=Counter({"web.kill": 20})) for commit in ("new", "earlier"))
    assert (left(), left(here), left(earlier, here)) == (300, 280, 260)
    assert left(replace(here, commit="old"), here) == 280
    many = replace(earlier, kinds=Counter({"web.kill": 290}))
    assert (left(many), left(many, here), left(many, here, here)) == (30, 10, -10)
    assert left(replace(here, violations=[BROKEN])) == 0, "nothing on that will count"
    assert left(replace(earlier, violations=[BROKEN]), here) == 280


def test_faults_are_counted_in_all_and_in_the_row() -> None:
    told = found(OLD, NEW)
    assert told["faults in all, by all rules"] == "9"
    assert told["of which on the newest commit new"] == "6"
    assert told["95 % upper bound of a violation a fault, in the row"] == "50.00%"
    assert found(OLD)["of which on the newest commit new"] == "0"
    assert found(OLD)["95 % upper bound of a violation a fault, in the row"] == "none"
    death = "death of a trainer told with its cause, in the row, supervisor and Postgres well"
    assert told[death].endswith("at most 1.50 s")
    assert found(replace(NEW, commit="old"))[death] == "none"
    assert (told["takeovers"], told["of these from a checkpoint in mid-training"]) == ("4", "3")
    assert "web.kill" in told["kinds not seen in the row"]
    assert "trainer.kill" not in told["kinds not seen in the row"]
    assert found()["faults in all, by all rules"] == "0"


def test_the_page_shows_the_worst_of_each_single_figure_and_names_those_that_are_not_there() -> None:
    rest = "pause, stop or keep while saving: the run rests"
    told = page(
        [OLD, NEW],
        [
            *(noted("a dead host's run trains again", seconds, 60.0) for seconds in (40.0, 50.0)),
            *(noted(rest, seconds, 10.0) for seconds in (1.0, 11.0, 2.0)),
            noted("Postgres was away", 15.0, None),
            noted("something else", 1.0, None),
        ],
        "new",
    )
    assert "each in its long form, on commit new:" in told
    assert "| a dead host's run trains again | 50.0 s, the worst of 2 | ≤ 60 s: met |" in told
    assert f"| {rest} | 11.0 s, the worst of 3 | ≤ 10 s: MISSED |" in told
    assert "| a dead host's run is claimed by another | not measured on this commit | measured: MISSED |" in told
    assert "| Postgres was away | 15.0 s, the worst of 1 | ≥ 300 s: MISSED |" in told
    assert "| something else | 1.0 s, the worst of 1 |  |" in told
    assert "VIOLATION on old" in told
    assert "VIOLATION on old" in printed([OLD, NEW], "new")[-1]


@pytest.mark.parametrize("due", SINGLES, ids=lambda due: due.name)
def test_a_single_figure_that_was_noted_too_seldom_is_missed(due: Single) -> None:
    assert missed(singles(measured())) == []
    once_less = measured()
    once_less.remove(noted(due.name, 399.0))
    assert missed(singles(once_less)) == [due.name]


def test_what_single_tests_are_to_measure_is_what_they_do() -> None:
    assert {*STOPPED_IN, "queued"} == set(PHASES)
    assert len(ACTIONS) == WORDS
    texts = [(ROOT / "tests" / "faults" / file).read_text() for file in LONG]
    noted = {name for text in texts for name in re.findall(r'figure\("([^"]+)"', text)}
    paced = {what for text in texts for what in re.findall(r'unhindered\(.*, figure, "([^"]+)"\)', text)}
    due = {each.name for each in SINGLES if ": a step takes" not in each.name and "pause, stop" not in each.name}
    assert (noted, paced) == (due, set(HINDRANCES))


def test_a_campaign_is_whole_only_where_every_row_of_its_page_holds() -> None:
    quick = ALL
    assert is_whole([OLD, quick], measured(), "new")
    assert not is_whole([OLD, quick], measured()[1:], "new")
    assert not is_whole([OLD, quick], [*measured(), noted("something else", GOAL + 1)], "new")
    assert not is_whole([replace(quick, commit="old")], measured(), "new")
    for worse in (
        replace(quick, detections=[]),
        replace(quick, detections=[9.0]),
        replace(quick, heard=[]),
        replace(quick, heard=[9.0]),
        replace(quick, kinds=quick.kinds - Counter({"web.kill": 1})),
        replace(quick, kinds=quick.kinds - Counter({"supervisor.kill": 200})),
        replace(quick, phases=quick.phases - Counter({AIMS[0]: 1})),
        replace(quick, sent=0),
        replace(quick, read_later=0),
        replace(quick, fetched=0),
        replace(quick, said=quick.said - Counter({"restore": 1})),
        replace(quick, checkpoints_read=0),
        replace(quick, obeyed=0),
        replace(quick, preempted=0),
        replace(quick, unnamed=["runs/1/attempt-1/checkpoints/checkpoint-4"]),
        replace(quick, outlived=[]),
        replace(quick, outlived=[0.1, 2.5]),
    ):
        assert len(missed(figures([worse], "new"))) == 1
        assert not is_whole([worse], measured(), "new")
    assert not is_whole([replace(quick, violations=[BROKEN])], measured(), "new")
    earlier = replace(quick, commit="earlier")
    assert not is_whole([earlier], measured(), "new", JUDGED.__getitem__), "a tenth is to strike what is here"
    tenth = replace(NEW, kinds=Counter({"web.kill": 299}), sent=2, read_later=1, checkpoints_read=1)
    for each, whole in ((tenth, False), (replace(tenth, kinds=Counter({"web.kill": 300})), True)):
        assert is_whole([earlier, each], measured(), "new", JUDGED.__getitem__) == whole


@pytest.mark.parametrize("name", ["sent", "read_later", "checkpoints_read"])
def test_what_is_to_be_seen_in_each_studio_is_missed_where_one_of_them_saw_none(name: str) -> None:
    def is_missed(blind: Segment) -> bool:
        return any(row.goal.endswith("in each studio") and row.holds is False for row in figures([ALL, blind], "new"))

    assert is_missed(replace(ALL, **{name: 0}))  # type: ignore[arg-type]
    assert not is_missed(replace(ALL, commit="old", **{name: 0}))  # type: ignore[arg-type]


def test_phases_that_another_commit_was_struck_in_are_not_met_on_this_one() -> None:
    quick = ALL
    other = replace(quick, commit="other")
    (row,) = [row for row in figures([other, replace(quick, phases=Counter(AIMS[1:]))], "new") if "phases" in row.what]
    assert row.found == "queued 0, claimed 1, preparing 1, training 1, saving 1, exporting 1, any 0"
    assert row.holds is False


def test_what_was_changed_since_its_commit_is_no_whole_campaign() -> None:
    quick, dirty = ALL, f"new{CHANGED}"
    assert missed(figures([replace(quick, commit=dirty)], dirty)) == ["commit"]
    assert not is_whole([replace(quick, commit=dirty)], measured(), dirty)
    edited = [*measured()[1:], replace(measured()[0], commit=dirty)]
    assert missed(singles(edited)) == ["commit of single faults"]
    assert not is_whole([quick], edited, "new")


def test_a_kind_that_no_machine_let_strike_is_told_with_that_and_is_missing_all_the_same() -> None:
    without = replace(ALL, kinds=ALL.kinds - Counter({"disk.fill": 1}), impossible=["disk.fill"])
    (row,) = [row for row in figures([without], "new") if row.what == "kinds not seen in the row"]
    assert (row.found, row.holds) == ("disk.fill (this machine does not let it strike)", False)
    (row,) = [row for row in figures([without, NEW], "new") if row.what == "kinds not seen in the row"]
    assert row.found == "disk.fill", "one that would have let it"


def test_a_commit_that_was_struck_too_seldom_is_not_clean_whatever_others_went_through() -> None:
    many = replace(NEW, commit="other", kinds=Counter({"trainer.kill": 3000}))
    assert not is_clean([many], "new", 3000)
    assert not is_clean([many, NEW], "new", 3000)
    goals = [row for row in figures([many, NEW], "new") if "faults in a row" in row.what or "of which" in row.what]
    assert [(row.found, row.holds) for row in goals] == [("6", False), ("6", False)]


def test_three_thousand_faults_kill_three_hundred_trainers_and_two_hundred_supervisors() -> None:
    kinds = Counter(aim(1, number).strike.kind for number in range(1, 3001))
    assert kinds["trainer.kill"] >= 300
    assert kinds["supervisor.kill"] >= 200
    assert kinds.keys() == {strike.kind for strike in CATALOGUE}
