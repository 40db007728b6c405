"""The short form of the campaign: 150 faults of every kind in every phase, on one studio, and not one promise broken."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.faults.campaign import figures, read_state, run_campaign
from tests.faults.phases import AIMS
from tests.faults.strikes import CATALOGUE
from tests.faults.striking import Plan, Segment, aim

FAULTS = 150
AT_ONCE = 10
"""More than in the long form, which has the time to let single faults be seen alone."""


@pytest.fixture(scope="module")
def done(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    state = tmp_path_factory.mktemp("faults") / "state.jsonl"
    segments = run_campaign(tiny_base, Plan(FAULTS, per_segment=FAULTS, at_once=AT_ONCE, patience=4.0), state)
    print("\n".join(figures(segments)))
    return segments


def test_no_fault_breaks_a_promise(done: list[Segment]) -> None:
    assert [violation for segment in done for violation in segment.violations] == []
    assert sum(segment.faults for segment in done) == FAULTS


def test_every_kind_of_fault_and_every_phase_of_a_run_was_met(done: list[Segment]) -> None:
    kinds = {kind for segment in done for kind in segment.kinds}
    phases = {phase for segment in done for phase in segment.phases}
    assert kinds == {strike.kind for strike in CATALOGUE}
    assert phases >= set(AIMS)


def test_a_campaign_goes_on_where_the_last_call_stopped(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    segment = Segment(1, 7, kinds=Counter({"web.kill": 3}), phases=Counter({"training": 3}), detections=[0.5])
    state.write_text(segment.as_line())
    assert read_state(state) == [segment]
    assert run_campaign(tmp_path, Plan(3), state) == [segment], "nothing is left to do"


def test_a_number_and_a_seed_repeat_a_fault() -> None:
    first, again, other = aim(1, 42), aim(1, 42), aim(2, 42)
    assert (first.strike, first.phase, first.dice.random()) == (again.strike, again.phase, again.dice.random())
    assert first.seed != other.seed
