"""The long form: it goes on where it stopped, says what was tried in each phase, and does not pass for having tried little."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuzz import __main__ as campaign
from tests.fuzz import api, report
from tests.fuzz.api import Phase
from tests.fuzz.findings import Figures, Finding
from tests.fuzz.records import Record, Records


def figures(cases: int, steps: int = 0, *findings: Finding) -> Figures:
    made = Figures(cases, steps, 2.0, Counter({"200": cases}))
    for each in findings:
        made.found(each)
    return made


def whole() -> list[Record]:
    return [Record.of("api", 1, phase, figures(12_000, steps=9), "admin") for phase in Phase]


def test_rounds_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    records = Records(tmp_path / "rounds.jsonl")
    made = [
        Record.of("api", 1, Phase.FUZZING, figures(9, 2, Finding("GET /", "500", "how")), "admin"),
        Record.of("parsers", 2, "row", figures(5)),
    ]
    for each in made:
        records.add(each)
    assert records.load() == made
    assert records.of("parsers", 2) == made[1:]


def test_every_role_has_a_round_of_every_phase() -> None:
    assert {(role, phase) for role in campaign.ROLES for phase in Phase} == set(campaign.ROUNDS)


def test_a_page_tells_each_phase_apart_with_its_figures() -> None:
    page = report.page(
        [*whole(), Record.of("life", 1, "RunLife", figures(3, 120)), Record.of("parsers", 1, "row", figures(7))]
    )
    assert "| requests to the API of people who are signed in | 36,000 | ≥ 10,000: met |" in page
    assert "| admin | stateful | 12,000 | 9 | 2 | 200 12,000 |" in page
    assert "| RunLife | 3 | 120 | 2 |" in page
    assert "| row | 7 | 2 |" in page


@pytest.mark.parametrize("missing", [Phase.FUZZING, Phase.STATEFUL])
def test_a_campaign_that_left_out_chance_or_sequences_is_not_whole(missing: Phase) -> None:
    assert report.is_whole(whole())
    assert not report.is_whole([each for each in whole() if each.what != missing])


def test_a_campaign_that_tried_little_is_not_whole() -> None:
    assert not report.is_whole([Record.of("api", 1, phase, figures(3000, steps=9), "admin") for phase in Phase])


def test_a_campaign_that_followed_no_answer_is_not_whole() -> None:
    alone = [Record.of("api", 1, phase, figures(12_000), "admin") for phase in Phase]
    assert not report.is_whole(alone)


def test_a_finding_of_an_earlier_commit_is_no_longer_told() -> None:
    found = Record("api", 1, Phase.FUZZING, findings=("GET /: 500",), commit="before")
    assert report.findings([found, Record("api", 1, Phase.FUZZING, commit="now")]) == []
    assert report.findings([found]) == ["GET /: 500"]


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

    monkeypatch.setitem(campaign.FUZZERS, "api", breaks)
    wanted = argparse.Namespace(cases=1, minutes=1.0, seed=1)
    assert not campaign._run("api", wanted, Records(tmp_path / "rounds.jsonl"))
    assert "as a careless fuzzer would" in capsys.readouterr().err


def test_requests_that_are_all_refused_at_the_door_and_answers_that_never_came_are_told() -> None:
    shut = [Record.of("api", 1, phase, figures(12_000, steps=9), api.ANYBODY) for phase in Phase]
    assert not report.is_whole(shut)
    silent = Record("api", 1, Phase.FUZZING, "admin", cases=1, kinds=Counter({"no answer": 1}))
    assert "and none at all | no answer 1 | 0: MISSED |" in report.page([*whole(), silent])
