"""What is held of a data set does not grow with its rows, however long or however many they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend.core.assignment import DataFile
from backend.core.datasets.picking import all_records, place_of
from backend.core.datasets.schema import Message, Row
from backend.core.datasets.store import PAGE_BYTES, read_rows
from backend.core.datasets.writer import GROUP_ROWS
from backend.core.rendering.prepare import has_conversations, rows_of
from tests.support.held_rows import MIB, long_rows, most_held, written

LONG = 64
"""Rows of a MiB each: eight of them make a row group."""


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("long") / "a.parquet", long_rows(LONG))


READERS: dict[str, Callable[[Path], Iterable[Any]]] = {
    "all records": all_records,
    "rows to train on": lambda path: rows_of(DataFile(name="a", version=1, path=path)),
    "a page": lambda path: read_rows(path, 0, 200),
}


@pytest.mark.parametrize("reader", READERS)
def test_reading_long_rows_holds_no_more_than_a_few_of_them(long_file: Path, reader: str) -> None:
    held = most_held(lambda: READERS[reader](long_file))
    assert held < 32 * MIB, f"{held / MIB:.0f} MiB of {LONG}"


def test_a_page_of_long_rows_ends_where_it_is_full_and_the_next_one_goes_on(long_file: Path) -> None:
    numbers: list[int] = []
    while page := read_rows(long_file, len(numbers), 200):
        assert sum(len(row.text or "") for row in page) <= PAGE_BYTES
        numbers += [row.number for row in page]
    assert numbers == list(range(1, LONG + 1))
    assert [row.number for row in read_rows(long_file, 6, 3)] == [7, 8, 9]


def test_a_page_has_a_row_that_alone_is_longer_than_a_page(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", long_rows(2, PAGE_BYTES + 1))
    assert [row.number for row in read_rows(path, 1, 200)] == [2]


@pytest.mark.parametrize(
    "row",
    [
        Row(1, (Message("user", "Q"), Message("assistant", "A")), tools="t" * 50_000),
        Row(1, (Message("user", "Q"), Message("assistant", "", tool_calls="c" * 50_000))),
        Row(1, (Message("user", "Q"), Message("assistant", "A")) * 400),
    ],
    ids=["tools", "calls", "many short turns"],
)
def test_a_row_group_is_ended_by_all_that_its_rows_hold(tmp_path: Path, row: Row) -> None:
    with pq.ParquetFile(written(tmp_path / "a.parquet", [row] * 400)) as file:
        assert file.num_row_groups >= 2
        sizes = [file.read_row_group(index).nbytes for index in range(file.num_row_groups)]
    assert max(sizes) < 10 * MIB


def test_short_rows_fill_a_row_group_by_their_number(tmp_path: Path) -> None:
    with pq.ParquetFile(written(tmp_path / "a.parquet", long_rows(GROUP_ROWS + 1, 10))) as file:
        assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [GROUP_ROWS, 1]


def test_a_conversation_behind_many_texts_is_seen(tmp_path: Path) -> None:
    texts, talk = long_rows(GROUP_ROWS + 5, 10), Row(9999, (Message("user", "Q"), Message("assistant", "A")))
    files = [DataFile(name=name, version=1, path=tmp_path / name) for name in ("texts", "mixed")]
    written(files[0].path, long_rows(GROUP_ROWS + 5, 10))
    written(files[1].path, [*texts, talk])
    assert [has_conversations([file]) for file in files] == [False, True]


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A file in which every third row of its source was left out, and the numbers that stayed."""
    numbers = [number for number in range(2, 300_000) if number % 3]
    path = tmp_path_factory.mktemp("gaps") / "a.parquet"
    pq.write_table(pa.table({"number": pa.array(numbers, pa.int64())}), path, row_group_size=GROUP_ROWS)
    return path, numbers


def test_a_number_is_found_at_its_place_or_at_that_of_the_next_one_kept(gaps: tuple[Path, list[int]]) -> None:
    path, numbers = gaps
    last = len(numbers) - 1
    for place in (0, 1, GROUP_ROWS - 1, GROUP_ROWS, 50 * GROUP_ROWS - 1, 50 * GROUP_ROWS, last):
        assert place_of(path, numbers[place]) == place
        assert place_of(path, numbers[place] + 1) == min(place + 1, last)
    assert [place_of(path, number) for number in (-5, 0, 1, 10**12)] == [0, 0, 0, last]


def test_a_number_is_found_without_holding_all_of_them(gaps: tuple[Path, list[int]]) -> None:
    path, numbers = gaps
    assert most_held(lambda: [place_of(path, numbers[-1])]) < MIB
