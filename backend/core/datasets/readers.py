"""Records out of files, one reader a file shape. Each streams: what is held at a time is one row, and bounded.

A reader yields `(number, record)`, or the `Problem` of a row after which it can go on; what ends the reading raises
`Invalid`. Numbers count from 1: lines of a JSONL or text file, elements of a JSON array, rows below a table's header.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, TextIO

from backend.core.datasets import strict_json
from backend.core.datasets.problems import BadRow, printable
from backend.core.datasets.source import MIB, Shape, Source, delimiter_of
from backend.core.datasets.strict_json import StrictDecoder
from backend.core.errors import Invalid, Problem, TooLarge

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Item = tuple[int, dict[str, Any]] | Problem

LINE_CHARACTERS = 16 * MIB
CELL_CHARACTERS = 131_072
BLOCK_CHARACTERS = 65_536
BATCH_BYTES = 8 * MIB
SPACE = re.compile(r"[ \t\r\n]*")


def read(source: Source) -> Iterator[Item]:
    """The records of a file of any shape. Raises `Invalid` where the file as a whole cannot be read."""
    return READERS[source.shape()](source)


def lines(text: TextIO) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends. Raises `Invalid` for one that is too long to be a row."""
    number = 0
    while line := text.readline(LINE_CHARACTERS + 1):
        number += 1
        if len(line) > LINE_CHARACTERS:
            raise Invalid(
                f"The line is too long: more than {LINE_CHARACTERS // MIB} MiB.",
                hint="Write one row a line.",
                where=f"line {number}",
                code="file.long_line",
            )
        yield number, line


def read_jsonl(source: Source) -> Iterator[Item]:
    decoder = StrictDecoder()
    with source.text() as text:
        for number, line in lines(text):
            if not line.strip():
                continue
            try:
                yield number, as_record(strict_json.loads(line, decoder))
            except BadRow as bad:
                whole = line.endswith("\n") or bad.code != "json.syntax"
                yield bad.at(number, "line") if whole else incomplete(number, "line")


def incomplete(number: int, unit: str) -> Problem:
    """The file ends in the middle of a row."""
    hint = "The file was cut off; upload it again."
    return Problem("file.incomplete", "is incomplete: the file ends in the middle of it.", f"{unit} {number}", hint)


def as_record(value: Any) -> dict[str, Any]:
    """A row of JSON is an object. Raises `BadRow`."""
    if isinstance(value, dict):
        return value
    raise BadRow("rows.no_object", "is no JSON object.", 'Write each row as an object: {"instruction": …}.')


def read_json(source: Source) -> Iterator[Item]:
    with source.text() as text:
        yield from _Array(text).items()


class _Array:
    """The elements of a JSON array, parsed out of a window of text that grows only as far as one element needs."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.text, self.at, self.number = stream, "", 0, 0
        self.decoder = StrictDecoder()

    def items(self) -> Iterator[Item]:
        self._next_mark()
        self.at += 1  # the opening bracket, which told the shape
        if self._next_mark() == "]":
            self.at += 1
        else:
            yield from self._elements()
        if self._next_mark():
            raise self._broken("is followed by something else: the list ends there, the file does not.")

    def _elements(self) -> Iterator[Item]:
        mark = ","
        while mark == ",":
            self.number += 1
            yield self._element()
            mark = self._next_mark()
            self.at += 1
            if mark not in (",", "]"):
                raise self._broken(
                    f"is followed by {mark!r}, where a comma or the closing bracket belongs.", at_end=not mark
                )

    def _element(self) -> Item:
        if not self._next_mark():
            raise self._broken("", at_end=True)
        value = self._value()
        try:
            if self.decoder.problem is not None:
                raise self.decoder.problem
            return self.number, as_record(value)
        except BadRow as bad:
            return bad.at(self.number)

    def _value(self) -> Any:
        """The value that starts here. What fails to parse may only be cut off by the window, so more is read first."""
        while True:
            try:
                value, self.at = self.decoder.value(self.text, self.at)
                return value
            except BadRow as bad:
                raise self._broken(bad.message, code=bad.code) from None
            except json.JSONDecodeError as error:
                if len(self.text) - self.at > LINE_CHARACTERS:
                    raise self._broken(f"is no valid JSON, or longer than {LINE_CHARACTERS // MIB} MiB.") from None
                if not self._more():
                    at_end = error.pos >= len(self.text) or error.msg.startswith("Unterminated")
                    raise self._broken(f"is not valid JSON: {error.msg}.", at_end=at_end) from None

    def _next_mark(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            space = SPACE.match(self.text, self.at)
            assert space is not None
            self.at = space.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Twice as much text as is held, so that parsing a long element again and again stays linear in its length."""
        held = self.text[self.at :]
        block = self.stream.read(max(BLOCK_CHARACTERS, len(held)))
        self.text, self.at = held + block, 0
        return bool(block)

    def _broken(self, message: str, *, at_end: bool = False, code: str = "json.syntax") -> Invalid:
        """After this the rest of the array cannot be told into rows."""
        problem = incomplete(self.number, "row") if at_end else Problem(code, message, f"row {self.number}")
        return Invalid(
            f"The JSON array is broken at row {self.number}.",
            where=problem.where,
            code=problem.code,
            problems=(problem,),
        )


def read_table(source: Source) -> Iterator[Item]:
    """CSV with a comma, semicolon or tab. Cells are text; an empty one is empty text."""
    csv.field_size_limit(CELL_CHARACTERS)
    with source.text(newline="") as text:
        remaining = (line for _, line in lines(text))
        first, *second = _header(remaining)
        delimiter = "\t" if source.suffix in (".tsv", ".tab") else delimiter_of(first)
        rows = csv.reader(chain((first, *second), remaining), delimiter=delimiter, strict=True)
        yield from _table_rows(rows)


def _header(remaining: Iterator[str]) -> list[str]:
    """The first line that holds something, and the one that was read to see where it ends. A carriage return before a
    separator, which some programs leave in a header, ends no line."""
    first = next((line for line in remaining if line.strip()), "")
    while first.endswith("\r"):
        second = next(remaining, "")
        if not second.startswith((",", ";", "\t")):
            return [first, second]
        first = first.rstrip("\r") + second
    return [first]


def _table_rows(rows: Iterator[list[str]]) -> Iterator[Item]:
    number = 0
    try:
        columns = checked_columns(next(rows, []))
        for cells in rows:
            if not cells:
                continue  # an empty line
            number += 1
            if len(cells) == len(columns):
                yield number, dict(zip(columns, cells, strict=True))
            else:
                message = f"has {len(cells)} column{'s' if len(cells) != 1 else ''}, and the header {len(columns)}."
                yield Problem("csv.ragged", message, f"row {number}", "Put cells that hold the separator in quotes.")
    except csv.Error as error:
        raise _bad_csv(str(error), number + 1) from None


def checked_columns(header: list[str]) -> list[str]:
    """The names in a header, without the spaces and carriage returns around them. Raises `Invalid`."""
    columns = [cell.strip() or f"column {index}" for index, cell in enumerate(header, start=1)]
    twice = sorted(column for column, count in Counter(columns).items() if count > 1)
    if twice:
        raise Invalid(f"The header names {', '.join(map(printable, twice))} twice.", where="header", code="csv.header")
    return columns


def _bad_csv(words: str, number: int) -> Invalid:
    where = f"row {number}"
    if "field limit" in words:
        return Invalid(
            f"A cell is too long: more than {CELL_CHARACTERS:,} characters.",
            hint="A quote may not be closed. Rows with documents this long belong in JSONL.",
            where=where,
            code="csv.long_cell",
        )
    if "unexpected end" in words:
        return Invalid(
            "The file ends inside a quoted cell.", hint="Close the quote.", where=where, code="file.incomplete"
        )
    return Invalid(f"The table cannot be read: {words}.", where=where, code="csv.syntax")


def read_txt(source: Source) -> Iterator[Item]:
    """One document a line; empty lines part nothing and are passed over."""
    with source.text() as text:
        for number, line in lines(text):
            document = line.rstrip("\r\n")
            if document.strip():
                yield number, {"text": document}


def read_parquet(source: Source) -> Iterator[Item]:
    import pyarrow as pa

    with _seekable(source) as stored:
        try:
            yield from _parquet_rows(source, stored)
        except MemoryError:  # Arrow's own is an ArrowException as well, so it is told apart first
            raise TooLarge(
                "The decoded size is over the limit: a few rows alone need more memory than reading them may take.",
                hint="Upload it in several smaller files.",
                code="file.expands",
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise _bad_parquet(f"damaged Parquet ({printable(str(error), 200)})") from None
        except OverflowError:
            raise _bad_parquet("invalid Parquet: it claims far more than it holds") from None
        except UnicodeDecodeError:
            raise _bad_parquet("invalid Parquet: a text column holds bytes that are not UTF-8") from None


@contextmanager
def _seekable(source: Source) -> Iterator[IO[bytes]]:
    """The content: the file itself, or an unpacked copy. The copy has no name, so that it goes with a process that is killed."""
    if not source.gzipped:
        with open(source.path, "rb") as stored:
            yield stored
        return
    with tempfile.TemporaryFile(dir=source.path.parent) as copy, source.open() as content:
        shutil.copyfileobj(content, copy, MIB)
        yield copy


def _parquet_rows(source: Source, stored: IO[bytes]) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(stored, pre_buffer=False, buffer_size=MIB) as file:
        total = file.metadata.num_rows
        _refuse_large(_claimed_bytes(file), source)
        decoded = number = 0
        plain = pa.schema([field.with_type(without_dictionaries(field.type)) for field in file.schema_arrow])
        for batch in file.iter_batches(batch_size=_batch_rows(file), use_threads=False):
            batch = batch.cast(plain)
            decoded += batch.nbytes
            _refuse_large(decoded, source)
            for record in batch.to_pylist():
                number += 1
                yield number, record
            source.position = source.size * number // max(1, total)


def without_dictionaries(kind: pa.DataType) -> pa.DataType:
    """The same type with every value in its place: a dictionary counts a text once, however many rows repeat it."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return without_dictionaries(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(without_dictionaries(field.type)) for field in kind])
    for is_list, make in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_list(kind):
            return make(kind.value_field.with_type(without_dictionaries(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(without_dictionaries(kind.key_type), without_dictionaries(kind.item_type))
    return kind


def _claimed_bytes(file: pq.ParquetFile) -> int:
    return sum(int(file.metadata.row_group(index).total_byte_size) for index in range(file.metadata.num_row_groups))


def _batch_rows(file: pq.ParquetFile) -> int:
    """As many rows as decode to a few megabytes, by what the footer says; it is not trusted beyond a thousand."""
    row_bytes = _claimed_bytes(file) // max(1, int(file.metadata.num_rows))
    return max(1, min(1000, BATCH_BYTES // max(1, row_bytes)))


def _refuse_large(size: int, source: Source) -> None:
    if size > source.unpacked_limit:
        raise TooLarge(
            f"The decoded size is over the limit of {source.unpacked_limit // MIB:,} MiB.",
            hint="Upload it in several smaller files.",
            code="file.expands",
        )


def _bad_parquet(what: str) -> Invalid:
    return Invalid(f"The file is {what}.", hint="Write it anew and upload it again.", code="file.damaged_parquet")


READERS: dict[Shape, Callable[[Source], Iterator[Item]]] = {
    Shape.JSONL: read_jsonl,
    Shape.JSON: read_json,
    Shape.CSV: read_table,
    Shape.TSV: read_table,
    Shape.TXT: read_txt,
    Shape.PARQUET: read_parquet,
}
