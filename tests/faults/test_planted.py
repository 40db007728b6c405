"""The checker tells each planted bug from what it did to a real run, and finds nothing where nothing was planted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.faults.checker import check
from tests.faults.conftest import MakeLab
from tests.faults.drives import DRIVES, Drive
from tests.faults.history import History
from tests.faults.planted import MODULE

FITTING = {
    "lost": "no accepted run is lost",
    "doubled": "each step is told once as it was trained",
    "stale": "only the owner of the history writes",
    "torn": "what is published can be read",
    "orphan": "no trainer outlives its supervisor",
}
SECONDS = 600


def drive(make_lab: MakeLab, name: str, bug: str) -> History:
    with make_lab() as lab:
        driven = Drive(lab, (MODULE, bug))
        return driven.history(DRIVES[name](driven))


@pytest.fixture(scope="module")
def histories(make_lab: MakeLab) -> Iterator[dict[tuple[str, str], Future[History]]]:
    """Each drive with its bug and without, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {(name, bug): pool.submit(drive, make_lab, name, bug) for name in FITTING for bug in (name, "none")}


@pytest.mark.parametrize("name", FITTING)
def test_a_planted_bug_is_told_by_the_rule_that_it_breaks(
    name: str, histories: dict[tuple[str, str], Future[History]]
) -> None:
    found = check(histories[name, name].result(SECONDS))
    assert {violation.rule for violation in found} == {FITTING[name]}, found


@pytest.mark.parametrize("name", FITTING)
def test_the_same_fault_without_the_bug_breaks_no_rule(
    name: str, histories: dict[tuple[str, str], Future[History]]
) -> None:
    assert check(histories[name, "none"].result(SECONDS)) == []
