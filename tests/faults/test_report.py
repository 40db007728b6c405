"""A campaign's page tells what holds today from what an earlier commit broke."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from tests.faults.checker import Violation
from tests.faults.report import figures, is_clean, page, printed, violations
from tests.faults.strikes import CATALOGUE
from tests.faults.striking import Segment, aim
from tests.support.figures import Figure

BROKEN = Violation("no accepted run is lost", "run 1 is gone")
OLD = Segment(1, 7, "old", kinds=Counter({"web.kill": 3}), violations=[BROKEN])
NEW = Segment(4, 7, "new", 1, kinds=Counter({"trainer.kill": 6}), takeovers=4, resumes=3, detections=[0.5, 1.5])


def found(*done: Segment) -> dict[str, str]:
    return {row.what: row.found for row in figures(done, "new")}


def test_what_an_earlier_commit_broke_is_told_with_its_name_and_is_no_longer_held_against_the_newest() -> None:
    assert is_clean([OLD, NEW], "new", 6)
    assert not is_clean([OLD], "old", 3)
    assert not is_clean([OLD, replace(NEW, violations=[BROKEN])], "new", 6)
    assert not is_clean([replace(NEW, violations=[BROKEN]), replace(OLD, violations=[])], "new", 6)
    assert violations([OLD, NEW]) == ["VIOLATION on old, faults 1 to 3: no accepted run is lost: run 1 is gone"]
    told = found(OLD, NEW)
    assert (told["violations on that commit"], told["violations on other commits"]) == ("0", "1")


def test_faults_are_counted_in_all_and_on_the_newest_commit() -> None:
    told = found(OLD, NEW)
    assert told["faults"] == "9, of which 6 on commit new"
    assert told["95 % upper bound of a violation a fault, on that commit"] == "50.00%"
    assert found(OLD)["faults"] == "3, of which 0 on commit new"
    assert found(OLD)["95 % upper bound of a violation a fault, on that commit"] == "none"
    assert told["death of a trainer told, supervisor and Postgres well"] == "2 times: p95 0.50 s, at most 1.50 s"
    assert (told["takeovers"], told["of these from a checkpoint in mid-training"]) == ("4", "3")
    assert "web.kill" in told["kinds not seen on that commit"]
    assert "trainer.kill" not in told["kinds not seen on that commit"]
    assert found()["faults"].startswith("0, ")


def test_the_page_shows_the_worst_of_each_long_form_of_the_newest_commit() -> None:
    measured = [
        Figure("a dead host", 70.0, "s", 60, "old", is_long=True),
        Figure("a dead host", 40.0, "s", 60, "new", is_long=True),
        Figure("a dead host", 50.0, "s", 60, "new", is_long=True),
        Figure("a rest", 11.0, "s", 10, "new", is_long=True),
        Figure("short", 1.0, "s", 10, "new", is_long=False),
    ]
    told = page([OLD, NEW], measured, "new")
    assert "| a dead host | 50.0 s | 2 | ≤ 60: met |" in told
    assert "| a rest | 11.0 s | 1 | ≤ 10: MISSED |" in told
    assert "short" not in told
    assert "VIOLATION on old" in told
    assert "VIOLATION on old" in printed([OLD, NEW], "new")[-1]


def test_a_commit_that_was_struck_too_seldom_is_not_clean_whatever_others_went_through() -> None:
    many = replace(NEW, commit="other", kinds=Counter({"trainer.kill": 3000}))
    assert not is_clean([many], "new", 3000)
    assert not is_clean([many, NEW], "new", 3000)
    (goal,) = [row for row in figures([many, NEW], "new") if row.what == "faults"]
    assert (goal.found, goal.holds) == ("3,006, of which 6 on commit new", False)


def test_three_thousand_faults_kill_three_hundred_trainers_and_two_hundred_supervisors() -> None:
    kinds = Counter(aim(1, number).strike.kind for number in range(1, 3001))
    assert kinds["trainer.kill"] >= 300
    assert kinds["supervisor.kill"] >= 200
    assert kinds.keys() == {strike.kind for strike in CATALOGUE}
