"""A soak tells each goal that was missed. The soak itself is long: `make soak`."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from tests.faults.load import Feeder, Stream, Tally
from tests.faults.soak import LASTING, MIB, Meter, fifths, figures, report
from tests.support.figures import Row, head
from tests.support.labs import MakeLab


def received(*numbers: int) -> Stream:
    """A stream of a run whose third event was the newest one."""
    stream = Stream(UUID(int=1), due=3)
    for number in numbers:
        stream.receive(number)
    return stream


def a_good_hour(tmp_path: Path) -> tuple[Tally, Meter]:
    tally = Tally(delays=[0.1] * 100, sent_points=2000, fed_seconds=10.0)
    tally.statuses["look", 200] = tally.statuses["follow", 200] = tally.statuses["launch", 201] = 5
    tally.due_uploads = tally.statuses["upload", 201] = 20
    tally.streams += [received(1, 2, 3), received(1, 2, 3, 4)]
    tally.ended_runs["succeeded"] = 3
    meter = Meter(tmp_path, 1.0)
    for name in LASTING:
        meter.memory[name], meter.descriptors[name] = [100.0 * MIB] * 50, [40.0] * 50
    meter.others = [3.0] * 50
    return tally, meter


def missed(tally: Tally, meter: Meter, stored: int = 2000, failures: tuple[str, ...] = ()) -> list[str]:
    return [each.what for each in figures(tally, meter, stored, failures, rate=200, streams=2) if each.holds is False]


def test_a_studio_that_stays_as_it_is_meets_every_goal(tmp_path: Path) -> None:
    assert missed(*a_good_hour(tmp_path)) == []


def test_each_goal_that_is_missed_is_named(tmp_path: Path) -> None:
    tally, meter = a_good_hour(tmp_path)
    tally.statuses["upload", 503] = 1
    tally.statuses["stream", 429] = 1
    tally.delays[:10] = [9.0] * 10
    tally.broken["stream: ReadError"] = 1
    meter.memory["web"][-10:] = [104.0 * MIB] * 10  # 4 % in three fifths of the time
    meter.descriptors["celery"][-10:] = [44.0] * 10
    meter.others[-10:] = [6.0] * 10
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
        "processes that come and go",
        "parts that died",
    ]


@pytest.mark.parametrize("numbers", [(), (1, 2), (1, 3), (2, 3), (1, 2, 2, 3), (1, 2, 1, 2, 3)])
def test_a_stream_that_is_silent_or_leaves_out_or_doubles_an_event_is_not_whole(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    tally, meter = a_good_hour(tmp_path)
    tally.streams[1] = received(*numbers)
    assert missed(tally, meter) == ["streams that received every event once"]


def test_a_stream_that_was_never_opened_is_missed(tmp_path: Path) -> None:
    tally, meter = a_good_hour(tmp_path)
    tally.streams.pop()
    assert missed(tally, meter) == ["streams that received every event once"]


@pytest.mark.parametrize("what", ["look", "launch", "follow"])
def test_people_who_are_turned_away_or_never_ask_are_missed(tmp_path: Path, what: str) -> None:
    tally, meter = a_good_hour(tmp_path)
    tally.statuses[what, 401] = 1
    assert missed(tally, meter) == ["looks and launches that were refused"]
    for status in (200, 201, 401):
        del tally.statuses[what, status]
    assert missed(tally, meter) == ["looks and launches that were refused"]


@pytest.mark.parametrize(
    ("taken", "refused", "is_missed"), [(19, 1, False), (18, 2, True), (18, 0, True), (0, 20, True)]
)
def test_uploads_that_are_refused_or_do_not_come_in_time_are_missed(
    tmp_path: Path, taken: int, refused: int, is_missed: bool
) -> None:
    tally, meter = a_good_hour(tmp_path)
    tally.statuses["upload", 201], tally.statuses["upload", 422] = taken, refused
    assert missed(tally, meter) == ["uploads that were due and taken"] * is_missed


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
    assert f"commit {head()}" in page
