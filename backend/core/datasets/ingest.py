"""A file of any known shape becomes normalised Parquet, or every reason why not. Runs in a limited process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.core.datasets.detect import Match, detect
from backend.core.datasets.problems import BadRow, Problems, printable
from backend.core.datasets.readers import Item, read
from backend.core.datasets.schema import Row, to_record
from backend.core.datasets.source import MIB, Source
from backend.core.datasets.writer import Writer, raw_text
from backend.core.errors import Invalid, Problem
from backend.core.limited import report, run_limited

DETECT_ROWS, DETECT_ITEMS = 100, 10_000
SAMPLE_ROWS = 5
SAMPLE_CHARACTERS = 2000
REPORT_SECONDS = 0.25
MEMORY_MIB = 512


@dataclass(frozen=True)
class Order:
    """What is to be read, and how. `format` and `columns` (part → column) overrule what would be guessed."""

    path: str
    target: str
    source_name: str
    limit_bytes: int
    format: str | None = None
    columns: Mapping[str, str] | None = None
    skip_bad_rows: bool = False


def ingest(
    order: Order,
    *,
    timeout_seconds: float,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Read `order.path` in a limited process and write `order.target`. Returns the facts of the version.

    Progress is `{"done", "total"}` in bytes of the file. Raises `Invalid` with the problems by row number; the target
    exists only when this returns.
    """
    try:
        facts: dict[str, Any] = run_limited(
            "backend.core.datasets.ingest:ingest_here",
            asdict(order),
            memory_mib=MEMORY_MIB,
            timeout_seconds=timeout_seconds,
            file_mib=order.limit_bytes // MIB + 64,
            on_progress=on_progress,
            cancelled=cancelled,
        )
    except BaseException:
        Path(order.target).unlink(missing_ok=True)
        raise
    return facts


def ingest_here(payload: dict[str, Any]) -> dict[str, Any]:
    """The work itself, in this process."""
    order = Order(**payload)
    source = Source(Path(order.path), order.source_name, order.limit_bytes)
    problems = Problems()
    try:
        first, items = _peeked(_reported(read(source), source))
        match = detect([item[1] for item in first if not isinstance(item, Problem)], order.format, order.columns)
        with Writer(Path(order.target)) as writer:
            sample = _normalise(items, match, writer, problems)
    except Invalid as end:
        raise problems.joined(end) from end
    if problems.total and not (order.skip_bad_rows and writer.counts.rows):
        raise problems.refusal(writer.counts.rows)
    return {
        **asdict(writer.counts),
        **_shape_facts(match, first),
        **_file_facts(Path(order.target)),
        "duplicates": writer.duplicates,
        "skipped": problems.total,
        "problems": [problem.as_json() for problem in problems.first],
        "sample": sample,
    }


def _reported(items: Iterator[Item], source: Source) -> Iterator[Item]:
    """The items, with how far into the file they are told now and then."""
    told = time.monotonic()
    for item in items:
        if time.monotonic() - told > REPORT_SECONDS:
            told = time.monotonic()
            report({"done": source.position, "total": source.size})
        yield item


def _peeked(items: Iterator[Item]) -> tuple[list[Item], Iterator[Item]]:
    """The first items, enough to tell the shape from, and all of them. What ends the reading among the first is raised in
    its turn, after them. Raises `Invalid` where none of them is a record."""
    first: list[Item] = []
    end: Invalid | None = None
    records = 0
    try:
        for item in items:
            first.append(item)
            records += not isinstance(item, Problem)
            if records >= DETECT_ROWS or len(first) >= DETECT_ITEMS:
                break
    except Invalid as error:
        end = error
    if not records:
        raise _nothing(first, end)

    def every() -> Iterator[Item]:
        yield from first
        if end is not None:
            raise end
        yield from items

    return first, every()


def _nothing(items: list[Item], end: Invalid | None) -> Invalid:
    """Why there is no row at all."""
    problems = Problems()
    for item in items:
        if isinstance(item, Problem):
            problems.add(item)
    return problems.joined(end) if end is not None else problems.nothing()


def _normalise(items: Iterator[Item], match: Match, writer: Writer, problems: Problems) -> list[dict[str, Any]]:
    """Write each good row, gather each problem, and return the first rows for people to see."""
    sample: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, Problem):
            problems.add(item)
            continue
        number, record = item
        try:
            row = match.read(record, number)
            writer.add(row, raw_text(record))
        except BadRow as bad:
            problems.add(bad.at(number))
            continue
        except RecursionError:
            problems.add(Problem("json.nesting", "is nested too deeply.", f"row {number}"))
            continue
        if len(sample) < SAMPLE_ROWS:
            sample.append(shown(row))
    return sample


def shown(row: Row, characters: int = SAMPLE_CHARACTERS) -> dict[str, Any]:
    """The row as it is shown in a summary: long texts shortened, empty fields left out."""

    def short(value: Any) -> Any:
        if isinstance(value, str):
            return value if len(value) <= characters else value[:characters] + "…"
        if isinstance(value, list):
            return [short(each) for each in value[:20]]
        if isinstance(value, dict):
            return {key: short(each) for key, each in value.items() if each is not None}
        return value

    summary: dict[str, Any] = short(to_record(row))
    return summary


def _shape_facts(match: Match, first: list[Item]) -> dict[str, Any]:
    columns = dict.fromkeys(column for item in first if not isinstance(item, Problem) for column in item[1])
    return {
        "format": match.format.name,
        "title": match.format.title,
        "kind": match.format.kind,
        "columns": [printable(column) for column in list(columns)[:200]],
        "mapping": {part: printable(column) for part, column in match.mapping.items()},
    }


def _file_facts(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
