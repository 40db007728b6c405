"""The checker tells each planted bug from what it did to a real run, and finds nothing where nothing was planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

import pytest

from tests.faults.checker import check
from tests.faults.drives import DRIVES, Drive
from tests.faults.history import History
from tests.faults.planted import MODULE
from tests.support.labs import MakeLab

FITTING = {
    "lost": "no accepted run is lost",
    "doubled": "each step is told once as it was trained",
    "stale": "only the owner of the history writes",
    "torn": "what is published can be read",
    "orphan": "no trainer outlives its supervisor",
    "forgotten": "a run goes on from its newest checkpoint",
    "spared": "one trainer works on a run",
    "hurried": "who is preempted in training loses no step",
    "deaf": "who was told to end trains no longer",
    "heedless": "a change is made and holds",
}
SECONDS = 600
Way = Callable[[Drive], UUID]
Histories = dict[tuple[Way, str], Future[History]]


def driven(make_lab: MakeLab, drive: Way, bug: str) -> History:
    with make_lab() as lab:
        on_the_way = Drive(lab, (MODULE, bug))
        return on_the_way.history(drive(on_the_way))


@pytest.fixture(scope="module")
def histories(make_lab: MakeLab) -> Iterator[Histories]:
    """Each drive with the bugs that it brings out, and once without any, two at a time."""
    wanted = dict.fromkeys((DRIVES[name], bug) for name in FITTING for bug in (name, "none"))
    with ThreadPoolExecutor(2) as pool:
        yield {(drive, bug): pool.submit(driven, make_lab, drive, bug) for drive, bug in wanted}


@pytest.mark.parametrize("name", FITTING)
def test_a_planted_bug_is_told_by_the_rule_that_it_breaks(name: str, histories: Histories) -> None:
    found = check(histories[DRIVES[name], name].result(SECONDS))
    assert {violation.rule for violation in found} == {FITTING[name]}, found


@pytest.mark.parametrize("drive", dict.fromkeys(DRIVES.values()), ids=lambda drive: drive.__name__)
def test_the_same_fault_without_the_bug_breaks_no_rule(drive: Way, histories: Histories) -> None:
    assert check(histories[drive, "none"].result(SECONDS)) == []
