"""A look at the beginning of a file before it is sent: its shape, its columns, and the first rows as they would be read.

It runs in a limited process, on bytes that nobody has checked, and answers within seconds whatever they are.
"""

from __future__ import annotations

import codecs
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from backend.core.catalog import FORMATS
from backend.core.datasets.detect import Match, detect
from backend.core.datasets.ingest import shown
from backend.core.datasets.problems import BadRow, Problems, printable
from backend.core.datasets.readers import READERS, Item
from backend.core.datasets.source import Shape, Source, shape_of
from backend.core.datasets.writer import fingerprint
from backend.core.errors import Invalid, Problem
from backend.core.formats.base import Format
from backend.core.limited import run_limited

HEAD_BYTES = 256 << 10
"""How much of a file a look takes."""
UNPACKED_BYTES = 4 * HEAD_BYTES
SECONDS = 4.0
"""It takes a fifth of a second; a busy machine is given time."""
MEMORY_MIB = 384
ROWS_LOOKED_AT, ROWS_SHOWN, COLUMNS_SHOWN, EXAMPLES, PROBLEMS_SHOWN = 200, 3, 60, 3, 20
EXAMPLE_CHARACTERS, ROW_CHARACTERS, NAME_CHARACTERS = 120, 600, 300


@dataclass(frozen=True)
class Glimpse:
    """The first bytes of a file, in `path`. `size` is the whole file's; `format` and `columns` are a person's choice."""

    path: str
    source_name: str
    size: int
    format: str | None = None
    columns: Mapping[str, str] | None = None


def probe(glimpse: Glimpse) -> dict[str, Any]:
    """What can be said of the file. Blocks. Raises `Invalid` in words where it cannot be a data set at all."""
    found: dict[str, Any] = run_limited(
        "backend.core.datasets.probe:probe_here",
        asdict(glimpse),
        memory_mib=MEMORY_MIB,
        timeout_seconds=SECONDS,
        output_mib=1,
    )
    return found


def probe_here(payload: dict[str, Any]) -> dict[str, Any]:
    """The look itself, in this process."""
    glimpse = Glimpse(**payload)
    source = opened(glimpse)
    shape = source.shape()
    if shape == Shape.PARQUET and isinstance(source, Head):
        return _answer(shape, [], glimpse, is_whole=False)
    return _answer(shape, list(_first_items(source, shape)), glimpse, is_whole=not isinstance(source, Head))


# ---- the bytes -------------------------------------------------------------------------------------------------------


class Head(Source):
    """The beginning of a longer file, unpacked and cut behind its last whole line."""

    def __init__(self, content: bytes, path: Path, name: str) -> None:
        super().__init__(path, name, limit_bytes=UNPACKED_BYTES)
        self.content = content

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        yield cast(BinaryIO, io.BytesIO(self.content))

    @property
    def has_whole_line(self) -> bool:
        return b"\n" in self.content

    def shape(self) -> Shape:
        return shape_of(self.content, self.suffix, gzipped=self.gzipped)


def opened(glimpse: Glimpse) -> Source:
    """The file itself where all of it is here, else its beginning. Raises `Invalid` for a damaged archive."""
    path = Path(glimpse.path)
    stored = path.read_bytes()
    if len(stored) >= glimpse.size and not stored.startswith(b"\x1f\x8b"):
        return Source(path, glimpse.source_name, HEAD_BYTES)
    content, is_whole = unpacked(stored) if stored.startswith(b"\x1f\x8b") else (stored, False)
    if is_whole and len(stored) >= glimpse.size:
        return Source(path, glimpse.source_name, UNPACKED_BYTES)
    return Head(_whole_lines(content), path, glimpse.source_name)


def unpacked(packed: bytes) -> tuple[bytes, bool]:
    """The first bytes of an archive, and whether that is all of it."""
    stream = zlib.decompressobj(31)
    try:
        content = stream.decompress(packed, UNPACKED_BYTES)
    except zlib.error as error:
        raise Invalid(
            "The archive is damaged or cut off.", hint="Pack and upload it again.", code="file.damaged_archive"
        ) from error
    return content, stream.eof and not stream.unused_data


def _whole_lines(content: bytes) -> bytes:
    """Without the line that was cut off, or where it is all one line, the character."""
    if content.startswith(b"PAR1"):
        return content
    if end := content.rfind(b"\n") + 1:
        return content[:end]
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(content)
    except UnicodeDecodeError:
        return content
    return content[: len(content) - len(decoder.getstate()[0])]


# ---- the rows --------------------------------------------------------------------------------------------------------


CUT_OFF = ("file.incomplete", "csv.syntax", "json.syntax")
"""What the end of a head looks like, which is no fault of the file's."""


def _first_items(source: Source, shape: Shape) -> Iterator[Item]:
    """What can be read of the first rows."""
    is_cut = isinstance(source, Head)
    if isinstance(source, Head) and shape in (Shape.CSV, Shape.TSV) and not source.has_whole_line:
        return  # half a header names columns that there are not
    count = 0
    try:
        for item in READERS[shape](source):
            if is_cut and isinstance(item, Problem) and item.code == "file.incomplete":
                return
            yield item
            count += 1
            if count >= ROWS_LOOKED_AT:
                return
    except Invalid as end:
        if not (is_cut and end.code in CUT_OFF and (count or end.code == "file.incomplete")):
            raise


def _answer(shape: Shape, items: list[Item], glimpse: Glimpse, *, is_whole: bool) -> dict[str, Any]:
    records = [item for item in items if not isinstance(item, Problem)]
    names = list(dict.fromkeys(name for _, record in records for name in record))
    problems = Problems()
    for item in items:
        if isinstance(item, Problem):
            problems.add(item)
    answer: dict[str, Any] = {
        "file": shape.value,
        "is_whole": is_whole,
        "columns": [_column(name, records) for name in names[:COLUMNS_SHOWN]],
        "formats": [_format(each, names) for each in FORMATS if not each.refusal],
        "format": None,
        "mapping": {},
        "rows": [],
        "error": None,
    }
    if not records and is_whole:
        raise problems.nothing()
    if records:
        answer |= _matched(records, glimpse, problems)
    told = [problem.as_json() for problem in problems.first[:PROBLEMS_SHOWN]]
    return answer | {"looked_at": len(items), "bad": problems.total, "problems": told}


def _matched(records: Sequence[tuple[int, dict[str, Any]]], glimpse: Glimpse, problems: Problems) -> dict[str, Any]:
    """The shape, and the rows under it, or why there is none."""
    try:
        match = detect([record for _, record in records], glimpse.format, glimpse.columns)
    except Invalid as refusal:
        return {"error": refusal.as_json()["error"]}
    rows = _rows(match, records, problems)
    return {
        "format": match.format.name,
        "mapping": {part: told_name(name) for part, name in match.mapping.items()},
        "rows": rows,
    }


def _rows(match: Match, records: Sequence[tuple[int, dict[str, Any]]], problems: Problems) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, record in records:
        try:
            row = match.read(record, number)
            fingerprint(row)  # text that is none is refused as the reading refuses it
        except BadRow as bad:
            problems.add(bad.at(number))
            continue
        if len(rows) < ROWS_SHOWN:
            rows.append(shown(row, ROW_CHARACTERS))
    return rows


def _column(name: str, records: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """A column with some of what stands in it."""
    values = (record.get(name) for _, record in records)
    examples = [_example(value) for value in values if value not in (None, "")]
    return {"name": told_name(name), "examples": list(dict.fromkeys(examples))[:EXAMPLES]}


def told_name(name: str) -> str:
    """A column's name as an answer can carry it. What is changed by this names no column that could be chosen."""
    return printable(name, NAME_CHARACTERS)


def _example(value: Any) -> str:
    return printable(value if isinstance(value, str) else repr(value), EXAMPLE_CHARACTERS)


def _format(format_: Format, columns: Sequence[str]) -> dict[str, Any]:
    """A shape with its roles, and the column that each would take by its name."""
    parts = [{"name": part.name, "required": part.required, "column": part.column(columns)} for part in format_.parts]
    return {"name": format_.name, "title": format_.title, "kind": format_.kind, "parts": parts}
