"""Some rows of a version by their places, with the records that they were read from, and rows that hold some words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.core.datasets.groups import Group, groups, records
from backend.core.datasets.schema import COLUMNS, Row, from_record
from backend.core.limited import report, run_limited

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

FOUND_ROWS = 10_000
"""A search ends with so many rows."""
SEARCH_SECONDS = 60


@dataclass(frozen=True)
class Picked:
    """`place` is the row's place in the version, from 0; `raw` the record in JSON, where it was kept."""

    place: int
    row: Row
    raw: str | None


def pick(path: Path, places: Sequence[int]) -> list[Picked]:
    """The rows at these places, in their order; only the groups that hold them are read. Blocks."""
    import pyarrow.parquet as pq

    wanted = sorted(set(places))
    with pq.ParquetFile(path) as file:
        return [each for group in groups(file) for each in _picked(file, group, wanted)]


def _picked(file: ParquetFile, group: Group, wanted: Sequence[int]) -> Iterator[Picked]:
    here = [place - group.start for place in wanted if group.start <= place < group.start + group.count]
    if not here:
        return
    kept = [*COLUMNS, "raw"] if "raw" in file.schema_arrow.names else list(COLUMNS)
    for place, record in zip(here, file.read_row_group(group.index, kept).take(here).to_pylist(), strict=True):
        yield Picked(group.start + place, from_record(record), record.get("raw"))


def place_of(path: Path, number: int) -> int:
    """The place of the row with this number in the file that it came from, or of the next one that was kept. Blocks."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        found = bisect_left(range(file.num_row_groups), number, key=lambda index: _last_number(file, index))
        group = next(islice(groups(file), found, None), None)
        if group is None:
            return int(file.metadata.num_rows) - 1
        numbers = file.read_row_group(group.index, ["number"]).column(0).to_pylist()
    return group.start + bisect_left(numbers, number)


def _last_number(file: ParquetFile, index: int) -> int:
    """Of a row group, from the footer. Numbers ascend, within a group and from one to the next."""
    return int(file.metadata.row_group(index).column(0).statistics.max)


def search(path: Path, words: str) -> list[int]:
    """The places of the rows that hold these words, whatever their case; the first `FOUND_ROWS` of them.

    In a limited process: a data set is larger than what a web process should hold.
    """
    payload = {"file": str(path), "words": words}
    found: list[int] = run_limited("backend.core.datasets.picking:search_here", payload, timeout_seconds=SEARCH_SECONDS)
    return found


def search_here(payload: dict[str, Any]) -> list[int]:
    """The work itself, in this process."""
    words, found = payload["words"].casefold(), []
    for place, row in enumerate(all_rows(Path(payload["file"]))):
        if any(words in text.casefold() for text in texts_in(row)):
            found.append(place)
        if len(found) >= FOUND_ROWS:
            break
    return found


def texts_in(row: Row) -> Iterator[str]:
    """Everything that a row says."""
    yield from (message.content for message in row.messages)
    yield from (message.tool_calls for message in row.messages if message.tool_calls)
    yield from filter(None, (row.text, row.tools))


def all_rows(path: Path, *, tell: bool = False) -> Iterator[Row]:
    """Every row of a version, a row group at a time."""
    yield from (row for row, _ in all_records(path, tell=tell, columns=COLUMNS))


def all_records(
    path: Path, *, tell: bool = False, columns: Sequence[str] = (*COLUMNS, "raw")
) -> Iterator[tuple[Row, str | None]]:
    """Every row with its record. `tell` reports how far this is to who runs the process."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        kept = [each for each in columns if each in file.schema_arrow.names]
        for group in groups(file):
            for record in records(file.read_row_group(group.index, kept)):
                yield from_record(record), record.get("raw")
            if tell:
                report({"done": group.start + group.count, "of": file.metadata.num_rows})
