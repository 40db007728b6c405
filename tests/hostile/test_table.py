"""The table is whole: each of its rows is proved, or says why there is nothing to prove yet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

# What a test says of itself by `proves` is known once its file was read.
from tests.hostile import test_bearing, test_files, test_models, test_pages, test_requests, test_trainers
from tests.hostile.rows import OTHERWISE, PROVED, ROWS, WITHOUT
from tests.hostile.studio import MEMORY_MIB, NOISE, SECONDS, Cost, hold

FILES = (test_bearing, test_files, test_models, test_pages, test_requests, test_trainers)
ROW = re.compile(r"^\| (?P<row>\d+) \| (?P<comes>[^|]+) \| (?P<says>[^|]+) \|$", re.MULTILINE)


def test_every_row_is_proved_or_says_why_not() -> None:
    """By a test that has held its cost to the bounds when it ends: the fixture `held` sees to that."""
    proved = set(PROVED)
    assert FILES
    assert proved | set(WITHOUT) == set(ROWS)
    assert not proved & set(WITHOUT)
    assert set(OTHERWISE) <= proved


@pytest.mark.shared
def test_the_table_is_the_one_that_was_agreed_on(shared: Path) -> None:
    text = (shared / "reliability.md").read_text(encoding="utf-8")
    table = text.partition("\n## (b)")[2].partition("\n## ")[0]
    assert {int(row): (comes, says) for row, comes, says in ROW.findall(table)} == ROWS


@pytest.mark.parametrize(
    "cost",
    [
        Cost(seconds=NOISE * SECONDS + 0.1, cpu_seconds=0.01),  # it waited
        Cost(seconds=SECONDS, cpu_seconds=SECONDS + 0.1),
        Cost(memory_mib=MEMORY_MIB + 1),
        Cost(all_mib=MEMORY_MIB + 1),
    ],
    ids=str,
)
def test_what_costs_too_much_is_noticed(cost: Cost) -> None:
    with pytest.raises(AssertionError):
        hold("an attack", cost, Cost())
    hold("an attack", Cost(seconds=SECONDS, cpu_seconds=0.1), Cost())


@pytest.mark.parametrize("row", WITHOUT)
def test_a_row_without_a_counterpart_is_told(row: int) -> None:
    pytest.skip(f"row {row}: {WITHOUT[row]}")
