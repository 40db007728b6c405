"""A soak tells each goal that was missed. The soak itself is long: `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.load import Feeder, Tally
from tests.faults.soak import LASTING, MIB, Meter, fifths, figures, report
from tests.support.figures import Row
from tests.support.labs import MakeLab


def a_good_hour(tmp_path: Path) -> tuple[Tally, Meter]:
    tally = Tally(delays=[0.1] * 100, sent_points=2000, fed_seconds=10.0)
    tally.statuses["look", 200] = 5
    tally.ended_runs["succeeded"] = 3
    meter = Meter(tmp_path, 1.0)
    for name in LASTING:
        meter.memory[name], meter.descriptors[name] = [100.0 * MIB] * 50, [40.0] * 50
    return tally, meter


def missed(tally: Tally, meter: Meter, stored: int = 2000, failures: tuple[str, ...] = ()) -> list[str]:
    return [each.what for each in figures(tally, meter, stored, failures, rate=200) if each.holds is False]


def test_a_studio_that_stays_as_it_is_meets_every_goal(tmp_path: Path) -> None:
    assert missed(*a_good_hour(tmp_path)) == []


def test_each_goal_that_is_missed_is_named(tmp_path: Path) -> None:
    tally, meter = a_good_hour(tmp_path)
    tally.statuses["upload", 503] = 1
    tally.statuses["stream", 429] = 1
    tally.delays[:10] = [9.0] * 10
    tally.broken["stream: ReadError"] = 1
    meter.memory["web"][-10:] = [110.0 * MIB] * 10
    meter.descriptors["celery"][-10:] = [50.0] * 10
    meter.first = {("web", 1.0)}
    assert missed(tally, meter, stored=1999, failures=("feed: ValueError",)) == [
        "answers of 500 and above",
        "connections that broke",
        "streams that were refused",
        "delay of an event, p95",
        "points sent and stored",
        "load that stopped",
        "memory of web",
        "descriptors of celery",
        "parts that died",
    ]


def test_a_load_that_was_too_light_proves_nothing(tmp_path: Path) -> None:
    tally, meter = a_good_hour(tmp_path)
    tally.fed_seconds = 20.0
    tally.ended_runs.clear()
    meter.memory["valkey"] = [0.0] * 50
    assert missed(tally, meter) == ["points a second", "runs", "memory of valkey"]


def test_what_is_fed_goes_through_a_supervisor_and_is_stored_whole(make_lab: MakeLab) -> None:
    with make_lab() as lab:
        feeder, tally = Feeder(lab.home, lab.database_url, lab.redis_url, rate=80), Tally()
        try:
            feeder.wait()
        finally:
            feeder.stop()
        feeder.tell(tally)
        stored = feeder.stored_points()
        workers = {attempt.worker for run_id in feeder.run_ids for attempt in lab.attempts(run_id)}
    assert workers == {"feeder"}
    assert tally.sent_points == stored > 0


def test_growth_is_measured_behind_the_warm_up() -> None:
    assert fifths([0.0] * 10 + [4.0] * 30 + [5.0] * 10) == pytest.approx((4.0, 5.0))


def test_a_report_says_what_was_met_and_what_was_not() -> None:
    page = report([Row("a", "1", "0", False), Row("b", "0", "0", True), Row("c", "7")], 20, 200, 50)
    assert "| a | 1 | 0: MISSED |" in page
    assert "| b | 0 | 0: met |" in page
    assert "| c | 7 |  |" in page
