"""Normalised rows out of their file, one row group at a time: however many and however long they are, little more than one
group is held."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

PART_BYTES = 1 << 20
"""So much of a group is unpacked at once: as Python's objects, short turns take twenty times the room."""


@dataclass(frozen=True)
class Group:
    """A row group: where it stands among the others, the place of its first row from 0, and how many rows it has."""

    index: int
    start: int
    count: int


def groups(file: ParquetFile) -> Iterator[Group]:
    """The row groups in their order. Nothing but the footer is read."""
    start = 0
    for index in range(file.num_row_groups):
        count = file.metadata.row_group(index).num_rows
        yield Group(index, start, count)
        start += count


def records(table: Table) -> Iterator[dict[str, Any]]:
    """The rows of a group one after the other, about `PART_BYTES` of them unpacked at a time."""
    step = max(1, PART_BYTES * len(table) // max(1, table.nbytes))
    for start in range(0, len(table), step):
        yield from table.slice(start, step).to_pylist()


def fitting(table: Table, room_bytes: int) -> int:
    """How many of the first rows take no more room than that together."""
    return bisect_right(range(1, len(table) + 1), room_bytes, key=lambda count: table.slice(0, count).nbytes)
