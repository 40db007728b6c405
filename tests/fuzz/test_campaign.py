"""The long form: it goes on where it stopped, says what was tried in each phase, and does not pass for having tried little."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fuzz import __main__ as campaign
from tests.fuzz import api, parsers, report
from tests.fuzz.api import ANYBODY, Phase
from tests.fuzz.findings import Figures, Finding
from tests.fuzz.reach import End, Reach
from tests.fuzz.records import Record, Records
from tests.support.figures import CHANGED, head

OPERATIONS = frozenset({"GET /runs", "POST /runs", "PUT /me/password"})
ALL = Reach(OPERATIONS, asked=OPERATIONS, succeeded=OPERATIONS - {"PUT /me/password"})


def figures(cases: int, steps: int = 0, *findings: Finding) -> Figures:
    made = Figures(cases, steps, 2.0, Counter({"200": cases}))
    for each in findings:
        made.found(each)
    return made


def whole(commit: str = "now") -> list[Record]:
    """All that is wanted of a commit, and nothing found."""
    answers = Counter({"200": 12_000})
    asked = [Record("api", 1, phase, who, 12_000, 9, 2.0, answers, reach=ALL) for who, phase in report.ASKED]
    lived = [Record(name, 1, name, cases=800, steps=120) for name in report.MACHINES]
    read = [Record("parsers", 1, name, cases=4_000) for name in parsers.TARGETS]
    return [replace(each, commit=commit) for each in (*asked, *lived, *read)]


def missed(records: list[Record], commit: str = "now") -> list[str]:
    rows = [row.what for row in report.goals(records, commit) if row.holds is False]
    assert report.is_clean(records, commit) == (not rows)
    return rows


def test_rounds_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    made = [
        Record.of("api", 1, Phase.FUZZING, figures(9, 2, Finding("GET /", "500", "how")), "admin"),
        Record.of("parsers", 2, "row", figures(5)),
    ]
    made[0] = replace(made[0], end=End.BOUND, reach=ALL)
    for each in made:
        records.add(each)
    assert records.load() == made
    assert records.of("parsers", 2) == made[1:]


def test_rounds_that_were_kept_before_their_end_was_are_read_and_reached_nothing(tmp_path: Path) -> None:
    old = tmp_path / "rounds.jsonl"
    old.write_text(
        '{"fuzzer":"api","seed":1,"what":"fuzzing","who":"admin","cases":9,"kinds":{"200":9},"commit":"before"}\n'
    )
    (read,) = Records(old).load()
    assert (read.cases, read.was_cut, read.reach) == (9, False, Reach())
    assert "operations asked by whoever got to the fewest, in fuzzing or in coverage" in missed([read], "before")


def test_every_role_has_a_round_of_every_phase() -> None:
    assert {(role, phase) for role in campaign.ROLES for phase in Phase} == set(campaign.ROUNDS)


def test_a_page_tells_each_phase_apart_with_its_figures_on_one_commit() -> None:
    page = report.page([*whole("before"), *whole()], "now")
    assert "commit now." in page
    assert "| requests to the API of people who are signed in | 108,000 | ≥ 10,000: met |" in page
    assert "| admin | stateful | by itself 1 | 3 of 3 | 2 | 12,000 | 9 | 2 | 200 12,000 |" in page
    assert "| life | 800 | 120 | 0 |" in page
    assert "| row | 4,000 | 0 |" in page
    assert "led by no coverage" in page.split("|")[0]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("who", ["viewer", ANYBODY])
def test_a_campaign_that_left_somebody_out_in_one_phase_is_not_whole(who: str, phase: Phase) -> None:
    assert report.is_whole(whole(), "now")
    without = [each for each in whole() if (each.who, each.what) != (who, phase)]
    assert not report.is_whole(without, "now")
    assert missed(without) == ["phases, each as everybody"]


def test_a_phase_that_the_clock_cut_short_is_not_tried_and_its_requests_count() -> None:
    first, *others = whole()
    cut = replace(first, end=End.CLOCK)
    assert missed([cut, *others]) == ["phases, each as everybody"]
    assert "| phases, each as everybody | 11 of 12 | all: MISSED |" in (page := report.page([cut, *others], "now"))
    assert "| requests to the API of people who are signed in | 108,000 |" in page
    assert f"| {first.who} | {first.what} | cut by the clock 1 | 3 of 3 |" in page
    assert missed([cut, *others, first]) == []


def test_a_phase_that_ended_before_it_asked_every_operation_is_told_of() -> None:
    first, *others = whole()
    some = replace(first, end=End.BOUND, reach=replace(ALL, asked=frozenset({"GET /runs"})))
    assert missed([some, *others]) == ["operations asked by whoever got to the fewest, in fuzzing or in coverage"]
    page = report.page([some, *others], "now")
    assert "in fuzzing or in coverage | 1 of 3 | all: MISSED |" in page
    assert f"| {first.who} | {first.what} | at its bound of requests 1 | 1 of 3 |" in page
    more = replace(some, reach=replace(ALL, asked=OPERATIONS - {"GET /runs"}))
    assert missed([some, *others, more]) == [], "what one left out the other has asked"


def test_operations_that_succeeded_for_nobody_who_is_signed_in_are_named() -> None:
    door = Record("api", 1, Phase.FUZZING, ANYBODY, 1, reach=replace(ALL, succeeded=OPERATIONS), commit="now")
    other = Record("api", 1, Phase.FUZZING, "admin", 1, reach=replace(ALL, succeeded=OPERATIONS), commit="before")
    page = report.page([*whole(), door, other], "now")
    assert "for people who are signed in | 2 of 3, the others named below |" in page
    assert "so that only their refusals were tried: `PUT /me/password`." in page
    assert "never succeeded for anybody who is signed in: PUT /me/password" in report.printed([*whole(), door], "now")
    now = report.page([*whole(), replace(other, commit="now")], "now")
    assert "only their refusals were tried: none." in now


def test_a_campaign_that_tried_little_or_followed_no_answer_is_not_whole() -> None:
    few = [replace(each, cases=1000) if each.fuzzer == "api" else each for each in whole()]
    assert missed(few) == ["requests to the API of people who are signed in"]
    alone = [replace(each, steps=0) for each in whole()]
    assert missed(alone) == ["sequences in which an answer led to a request"]
    assert not report.is_whole(few, "now")
    assert not report.is_whole(alone, "now")


@pytest.mark.parametrize(
    ("fuzzer", "what", "row"),
    [
        ("life", "life", "lives of a run"),
        ("uploading", "uploading", "lives of an upload"),
        ("parsers", "journal", "inputs of the reader that got the fewest"),
    ],
)
def test_every_fuzzer_has_a_goal_of_its_own(fuzzer: str, what: str, row: str) -> None:
    idle = [each for each in whole() if (each.fuzzer, each.what) != (fuzzer, what)]
    assert missed(idle) == [row]
    assert missed([replace(each, cases=7) if each not in idle else each for each in whole()]) == [row]


def test_what_an_earlier_commit_went_through_counts_for_none_of_todays_goals() -> None:
    assert missed(whole()) == []
    assert set(missed(whole("before"))) == set(missed([])) > {"lives of a run", "phases, each as everybody"}
    assert not report.is_whole(whole("before"), "now")


def test_what_was_tried_on_uncommitted_changes_is_neither_whole_nor_clean() -> None:
    dirty = f"now{CHANGED}"
    assert missed(whole(dirty), dirty) == ["commit"]
    assert not report.is_whole(whole(dirty), dirty)
    assert f"| commit | {dirty} | nothing changed since: MISSED |" in report.page(whole(dirty), dirty)


def test_a_finding_is_held_against_its_fuzzer_until_that_has_tried_a_newer_commit() -> None:
    found = Record("api", 1, Phase.FUZZING, "admin", findings=("GET /: 500",), commit="before")
    other = Record("parsers", 1, "row", commit="now")
    assert report.findings([found, other]) == ["GET /: 500 (api, before)"]
    assert report.findings([found, other, Record("api", 1, Phase.FUZZING, commit="now")]) == []
    again = replace(found, commit="now")
    assert missed([*whole(), again]) == ["findings"]
    assert "FOUND: GET /: 500 (api, now)" in report.printed([*whole(), again, other], "now")


def campaign_of(tmp_path: Path, *records: Record, cases: int = 60) -> campaign.Campaign:
    kept = Records(tmp_path / "rounds.jsonl")
    for each in records:
        kept.add(each)
    return campaign.Campaign(cases, time.monotonic() + 60, 1, kept)


def test_a_round_under_which_the_code_changed_counts_for_no_commit_and_ends_the_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "LIVES", 2)
    begun = replace(campaign_of(tmp_path), commit="before", until=time.monotonic() + 5)
    with pytest.raises(campaign.ChangedUnderway, match="before"):
        campaign.over_uploading(begun)
    (kept,) = begun.records.load()
    assert kept.cases
    assert kept.commit == f"before{CHANGED}"


def test_what_was_kept_of_another_commit_leaves_all_of_todays_to_do_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "LIVES", 2)
    going_on = campaign_of(tmp_path, Record("uploading", 1, "Uploading", cases=10**6, commit="before"))
    campaign.over_uploading(going_on)
    before, *lived = going_on.done("uploading")
    assert sum(each.cases for each in lived) >= going_on.share(report.GOAL_LIVES) == 3
    campaign.over_uploading(going_on)
    assert going_on.done("uploading") == [before, *lived], "today's have been tried"


def test_rounds_over_the_api_end_behind_a_whole_turn_of_todays(tmp_path: Path) -> None:
    before, now = (Record("api", 1, Phase.FUZZING, cases=60, commit=commit) for commit in ("before", head()))
    first, second, *_, last = campaign.ROUNDS
    assert campaign._due(campaign_of(tmp_path, before).today("api"), 60) == first
    assert campaign._due([now], 60) == second
    some = [now] * (len(campaign.ROUNDS) - 1)
    assert campaign._due(some, 60) == last, "the last round of the turn is left out"
    assert campaign._due([*some, now], 60) is None
    assert campaign._due([*some, now], 60_000) == first


def test_a_round_that_the_clock_cut_is_the_next_again() -> None:
    done = Record("api", 1, Phase.FUZZING, cases=60)
    cut = replace(done, end=End.CLOCK)
    first, second, *_, last = campaign.ROUNDS
    assert campaign._due([cut, cut], 60) == first, "they asked enough, and nothing was tried to the end"
    assert campaign._due([cut, done, cut], 60) == second
    turn = [done] * len(campaign.ROUNDS)
    assert campaign._due([*turn[1:], cut], 60) == last
    assert campaign._due([*turn, cut], 60) is None
    assert campaign._due([replace(done, end=End.BOUND)], 60) == second, "a bound is an end"


def test_readers_that_got_less_than_their_share_today_have_their_turn(tmp_path: Path) -> None:
    read = [Record("parsers", 1, name, cases=15, commit=head()) for name in parsers.TARGETS]
    old, *others = read
    going_on = campaign_of(tmp_path, replace(old, commit="before"), *others)
    assert going_on.share(report.GOAL_INPUTS) == 15
    assert campaign._behind(going_on) == [old.what]


def test_a_studio_that_does_not_come_up_is_told_of_and_started_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[int] = []

    @contextmanager
    def slow() -> Iterator[str]:
        begun.append(1)
        assert len(begun) > 1, "the web's first answer did not happen within 60 s"
        yield "a web"

    monkeypatch.setattr(api, "worked_in", slow)
    with campaign.studio() as web:
        assert len(begun) == 2, web
    assert "did not come up, 1 of 3: the web's first answer" in capsys.readouterr().out


def test_a_fuzzer_that_breaks_is_told_of_and_the_others_have_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(_campaign: campaign.Campaign) -> None:
        raise LookupError("as a careless fuzzer would")

    had_turn: list[campaign.Campaign] = []
    monkeypatch.setitem(campaign.FUZZERS, "api", breaks)
    monkeypatch.setitem(campaign.FUZZERS, "life", had_turn.append)
    wanted = argparse.Namespace(fuzzers=["api", "life"], cases=1, minutes=1.0, seed=1)
    assert list(campaign._broke(wanted, Records(tmp_path / "rounds.jsonl"), head())) == ["api"]
    assert "as a careless fuzzer would" in capsys.readouterr().err
    assert len(had_turn) == 1


def test_code_that_changed_underway_ends_the_campaign_in_words_and_no_further_fuzzer_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tries(begun: campaign.Campaign) -> None:
        begun.keep(Record("api", 1, Phase.FUZZING), figures(7))

    had_turn: list[campaign.Campaign] = []
    monkeypatch.setitem(campaign.FUZZERS, "api", tries)
    monkeypatch.setitem(campaign.FUZZERS, "life", had_turn.append)
    wanted = argparse.Namespace(fuzzers=["api", "life"], cases=1, minutes=1.0, seed=1)
    (said,) = campaign._broke(wanted, Records(tmp_path / "rounds.jsonl"), "before")
    assert said.startswith("api: before was to be tried and is ")
    assert "Traceback" not in capsys.readouterr().err
    assert not had_turn


def test_requests_that_are_all_refused_at_the_door_and_answers_that_never_came_are_told() -> None:
    shut = [replace(each, cases=0) if each.who not in ("", ANYBODY) else each for each in whole()]
    assert "requests to the API of people who are signed in" in missed(shut)
    silent = Record("api", 1, Phase.FUZZING, "admin", cases=1, kinds=Counter({"no answer": 1}), commit="now")
    assert "and none at all | no answer 1 | 0: MISSED |" in report.page([*whole(), silent], "now")
