"""The short form of the campaign: 150 faults of every kind in every phase, on one studio, and not one promise broken."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.__main__ import arguments, campaign, repeat
from tests.faults.campaign import HISTORY, Campaign, ended_early, run_campaign, struck_on, unmet
from tests.faults.checker import SHOWN_SECONDS, Violation
from tests.faults.history import load
from tests.faults.people import WORDS
from tests.faults.phases import AIMS
from tests.faults.report import is_clean, printed
from tests.faults.strikes import CATALOGUE, FillDisk
from tests.faults.striking import Plan, Segment, aim
from tests.support.disks import mounted
from tests.support.figures import Note, head, keep, kept_in

FAULTS = 150
AT_ONCE = 7
"""More than in the long form, which so sees more faults alone."""
LEAST_TAKEOVERS, LEAST_RESUMES, LEAST_KILLS, LEAST_DETECTIONS = 8, 3, 8, 2
"""Without so many the faults would have missed what they are for."""


@pytest.fixture(scope="module")
def done(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    state = tmp_path_factory.mktemp("faults") / "state.jsonl"
    segments = run_campaign(
        tiny_base, Plan(FAULTS, per_segment=FAULTS, at_once=AT_ONCE, patience=4.0), state, state.parent
    )
    print("\n".join(printed(segments, head())))
    return segments


def test_no_fault_breaks_a_promise(done: list[Segment]) -> None:
    assert [violation for segment in done for violation in segment.violations] == []
    assert [left for segment in done for left in segment.unnamed] == [], "of what no row names"
    assert sum(segment.faults for segment in done) == FAULTS


def test_every_kind_of_fault_and_every_phase_of_a_run_was_met(done: list[Segment], tmp_path: Path) -> None:
    with mounted(tmp_path / "small", 1) as refusal:
        possible = {strike.kind for strike in CATALOGUE if not (refusal and isinstance(strike, FillDisk))}
    kinds = {kind for segment in done for kind in segment.kinds}
    phases = {phase for segment in done for phase in segment.phases}
    assert kinds == possible
    assert phases >= set(AIMS)


def test_runs_were_hit_in_their_middle_and_went_on_from_there(done: list[Segment], figure: Note) -> None:
    takeovers, resumes = sum(each.takeovers for each in done), sum(each.resumes for each in done)
    kills = sum(each.kills_in_training.total() for each in done)
    for name, count in (("takeovers", takeovers), ("resumed in mid-training", resumes), ("kills in training", kills)):
        figure(f"campaign: {name}", count, f"of {FAULTS} faults", None)
    assert takeovers >= LEAST_TAKEOVERS
    assert resumes >= LEAST_RESUMES
    assert kills >= LEAST_KILLS


def test_files_came_and_went_meanwhile_and_checkpoints_were_read_as_they_appeared(done: list[Segment]) -> None:
    for segment in done:
        assert segment.read_later
        assert segment.sent > segment.read_later
        assert segment.fetched
        assert segment.checkpoints_read


def test_people_said_what_they_say_of_runs(done: list[Segment], figure: Note) -> None:
    """Bringing a run back is too rare to be had each time, since few are discarded: the long form is to have all words."""
    said = sum((segment.said for segment in done), Counter[str]())
    for word in WORDS:
        figure(f"campaign: people said {word}", said[word], "times", None)
    assert said["pause"]
    assert said["resume"]
    assert said["amend"]


def test_deaths_of_trainers_were_detected_and_told_in_time(done: list[Segment], figure: Note) -> None:
    """The checker says so of each; here enough of them must have been looked at for that to mean anything."""
    detections = [seconds for segment in done for seconds in segment.detections]
    figure("campaign: deaths of trainers that were looked at", len(detections), f"of {FAULTS} faults", None)
    assert len(detections) >= LEAST_DETECTIONS
    figure("campaign: the slowest of them was told after", max(detections), "s", SHOWN_SECONDS)
    assert max(detections) <= SHOWN_SECONDS
    heard = [seconds for segment in done for seconds in segment.heard]
    figure("campaign: deaths of which a client heard by a clear way", len(heard), f"of {FAULTS} faults", None)
    assert all(seconds <= SHOWN_SECONDS for seconds in heard)


def test_a_campaign_goes_on_where_the_last_call_stopped(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    segment = Segment(1, 7, head(), kinds=Counter({"web.kill": 3}), phases=Counter({"training": 3}), detections=[0.5])
    keep(state, segment)
    assert kept_in(state, Segment) == [segment]
    assert run_campaign(tmp_path, Plan(3), state, tmp_path) == [segment], "nothing is left to do"


def test_what_earlier_calls_have_kept_is_read_to_the_last_figure(tmp_path: Path) -> None:
    """The first of them told no commit, and nobody's shown deaths."""
    state = tmp_path / "state.jsonl"
    state.write_text(
        '{"first": 1, "seed": 7, "kinds": {"web.kill": 3}, "phases": {}, "runs": 4, "attempts": 5, "takeovers": 1, '
        '"ended_by_themselves": {"web": 1}, "detections": [0.5], "violations": [{"rule": "a rule", "what": "broken"}]}\n'
    )
    (read,) = kept_in(state, Segment)
    assert (read.commit, read.faults, read.end, read.shown) == ("", 3, 4, [])
    assert (read.read_later, read.said, read.checkpoints_read, read.unnamed, read.outlived) == (0, Counter(), 0, [], [])
    assert read.heard == []
    assert read.ended_by_themselves == Counter({"web": 1})
    assert read.violations == [Violation("a rule", "broken")]


def test_faults_that_were_run_twice_are_not_run_a_third_time_and_none_behind_them_is_left_out(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    twice = [Segment(1, 7, head(), kinds=Counter({"web.kill": 3}))] * 2
    for each in twice:
        keep(state, each)
    assert run_campaign(tmp_path, Plan(6), state, tmp_path) == twice
    assert run_campaign(tmp_path, Plan(9, minutes=0), state, tmp_path) == twice, (
        "three are left, for which there is no time"
    )


def test_faults_that_struck_another_commit_leave_as_many_to_do() -> None:
    other, ours = (
        Segment(1, 7, "abc", kinds=Counter({"web.kill": 3})),
        Segment(4, 7, "def", kinds=Counter({"web.kill": 2})),
    )
    assert (struck_on("abc", [other, ours]), struck_on("def", [other, ours]), struck_on("", [other, ours])) == (3, 2, 0)


def test_a_studio_that_cannot_be_struck_is_told_of_its_segment_before_it_ends_the_campaign(tmp_path: Path) -> None:
    state, absent = tmp_path / "state.jsonl", tmp_path / "no base"
    with pytest.raises(FileNotFoundError):
        run_campaign(absent, Plan(3), state, tmp_path)
    (segment,) = kept_in(state, Segment)
    (violation,) = segment.violations
    assert (segment.commit, violation.rule) == (head(), "a studio can be struck and looked at to the end")
    assert "FileNotFoundError" in violation.what
    assert not is_clean([segment], head(), 0)


@pytest.mark.parametrize("is_whole", [False, True], ids=["repeated faults", "the campaign"])
def test_where_a_studio_breaks_off_the_figures_are_told_and_a_campaign_keeps_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], is_whole: bool
) -> None:
    state, absent = tmp_path / "state.jsonl", tmp_path / "no base"
    keep(state, Segment(1, 7, head(), kinds=Counter({"web.kill": 3}), takeovers=4))
    monkeypatch.setattr("sys.argv", ["faults", "--faults", "9", "--state", str(state)])
    given = arguments()
    assert (campaign(given, absent, failed=[]) if is_whole else repeat(given, absent)) == 1
    told, trace = capfd.readouterr()
    assert "FileNotFoundError" in trace
    assert "takeovers: 4\n" in told
    assert f"VIOLATION on {head()}, faults 4 to 3: a studio can be struck and looked at to the end" in told
    assert len(kept_in(state, Segment)) == 2
    assert (tmp_path / "state.md").exists() == is_whole


def test_a_commit_that_was_another_one_when_its_segment_ended_is_told(tmp_path: Path) -> None:
    segment = Segment(1, 7, "before")
    with pytest.raises(FileNotFoundError):
        Campaign(tmp_path / "no base", Plan(3), tmp_path).carry_out(segment, 3)
    told = [each.what for each in segment.violations if each.rule == "what was struck is the commit that is named"]
    assert told == [f"before at first, {head()} at the end"]


def test_a_studio_that_breaks_off_while_it_is_struck_leaves_its_history(tiny_base: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    with pytest.raises(AssertionError, match="an undisturbed run did not succeed"):
        run_campaign(tiny_base, Plan(3, patience=0.0), state, tmp_path)
    assert kept_in(state, Segment)[0].violations
    assert load(tmp_path / "faults-1" / HISTORY).is_watched
    assert (tmp_path / "faults-1" / "a-logs-supervisor.log").stat().st_size


def test_who_looks_and_ended_is_named() -> None:
    ended, goes_on = (
        threading.Thread(target=int, name="a watcher"),
        threading.Thread(target=time.sleep, args=(30,), daemon=True),
    )
    ended.start()
    goes_on.start()
    ended.join()
    (violation,) = ended_early(ended, goes_on)
    assert violation.what == "a watcher ended"


def test_faults_that_mostly_meet_no_run_are_told() -> None:
    assert list(unmet(Segment(1, 7, kinds=Counter({"web.kill": 30}), phases=Counter({"any": 3, "training": 27})))) == []
    (violation,) = unmet(Segment(1, 7, kinds=Counter({"web.kill": 30}), phases=Counter({"any": 4, "training": 26})))
    assert violation.what == "4 of 30 met none"


def test_a_number_and_a_seed_repeat_a_fault() -> None:
    first, again, other = aim(1, 42), aim(1, 42), aim(2, 42)
    assert (first.strike, first.phase, first.dice.random()) == (again.strike, again.phase, again.dice.random())
    assert first.seed != other.seed
