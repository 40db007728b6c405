"""An uploaded file: what it really is, and a stream of its bytes that neither a bomb nor a damaged archive gets past."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TextIO, cast

from backend.core.errors import Invalid, TooLarge

MIB = 1 << 20
EXPANSION = 200
"""Text packs about 5 times, the most repetitive rows some 50 times; what grows more than this was made to."""
EXPANSION_FLOOR = 64 * MIB
HEAD_BYTES = 65536


class Shape(StrEnum):
    """How records lie in the file."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    TXT = "txt"
    PARQUET = "parquet"


SUFFIXES = {
    ".jsonl": Shape.JSONL,
    ".ndjson": Shape.JSONL,
    ".json": Shape.JSON,
    ".csv": Shape.CSV,
    ".tsv": Shape.TSV,
    ".tab": Shape.TSV,
    ".txt": Shape.TXT,
    ".text": Shape.TXT,
    ".md": Shape.TXT,
    ".parquet": Shape.PARQUET,
}

READABLE = "JSONL, JSON, CSV, TSV, Parquet and TXT are read, each also gzipped."
STRANGERS = {
    b"PK\x03\x04": "a zip archive or an office document",
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF": "a PDF document",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"SQLite format 3": "a SQLite database",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"\x80\x04\x95": "a Python pickle, which could run any program",
}
TAR_MARK_AT = 257
WIDE_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}


@dataclass
class Source:
    """One uploaded file. `name` is what its owner called it; `limit_bytes` bounds what it may unpack to."""

    path: Path
    name: str
    limit_bytes: int
    gzipped: bool = field(init=False)
    size: int = field(init=False)
    position: int = field(init=False, default=0)
    """How far into the stored file the reading is."""

    def __post_init__(self) -> None:
        self.size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            self.gzipped = file.read(2) == b"\x1f\x8b"

    @property
    def unpacked_limit(self) -> int:
        """Bytes that the content may come to."""
        return min(self.limit_bytes, max(EXPANSION_FLOOR, EXPANSION * self.size))

    @property
    def suffix(self) -> str:
        """Of the content."""
        return content_suffix(self.name)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The content, unpacked."""
        with open(self.path, "rb") as raw, io.BufferedReader(_Unpacked(self, raw), 256 * 1024) as stream:
            yield cast(BinaryIO, stream)

    @contextmanager
    def text(self, newline: str = "\n") -> Iterator[TextIO]:
        """The content as text. `newline=""` ends a line at any of the three ends of a line, `"\\n"` only there."""
        with self.open() as stream, io.TextIOWrapper(stream, "utf-8-sig", newline=newline) as text:
            try:
                yield text
            except UnicodeDecodeError:
                raise self.not_utf8() from None

    def unpack_once(self) -> None:
        """Raise for a bomb or a damaged archive before any of it is believed. Unpacking is far cheaper than parsing."""
        with self.open() as stream:
            while stream.read(MIB):
                pass

    def head(self) -> bytes:
        with self.open() as stream:
            return stream.read(HEAD_BYTES)

    def not_utf8(self) -> Invalid:
        """Where the first byte lies that is not UTF-8. Looked for only once decoding has failed."""
        offset, carried = 0, b""
        with self.open() as stream:
            while block := stream.read(MIB):
                data = carried + block
                try:
                    data.decode()
                    offset, carried = offset + len(data), b""
                except UnicodeDecodeError as error:
                    if error.end < len(data) or len(data) - error.start > 3:
                        return _encoding(offset + error.start, f"0x{data[error.start]:02X} there is no UTF-8")
                    offset, carried = offset + error.start, data[error.start :]
        return _encoding(offset, "a character is cut off there")

    def shape(self) -> Shape:
        """What the content is: its first bytes say so, and the name only where they leave a choice. Raises `Invalid`."""
        if self.size == 0:
            raise Invalid("The file is empty.", code="file.empty")
        if self.gzipped:
            self.unpack_once()
        return shape_of(self.head(), self.suffix, gzipped=self.gzipped)


def content_suffix(name: str) -> str:
    """`rows.jsonl.gz` → `.jsonl`."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in (".gz", ".gzip") else path.suffix


def shape_of(head: bytes, suffix: str, *, gzipped: bool) -> Shape:
    """What a file is whose content begins with `head`. Raises `Invalid`."""
    if head.startswith(b"PAR1"):
        return Shape.PARQUET
    refuse_strangers(head, gzipped=gzipped)
    named = SUFFIXES.get(suffix)
    if named == Shape.PARQUET:
        raise Invalid("The content is not Parquet, whatever its name says.", hint=READABLE, code="file.not_parquet")
    text = head.decode(errors="ignore").removeprefix("\ufeff").lstrip()
    return json_shape(text, named) or named or guessed_shape(text)


def refuse_strangers(head: bytes, *, gzipped: bool) -> None:
    """Raise `Invalid` for files whose first bytes name something else."""
    if gzipped and (head.startswith(b"\x1f\x8b") or head[TAR_MARK_AT:].startswith(b"ustar")):
        raise Invalid("Nested archives are refused.", hint="Upload the files inside, one by one.", code="file.nested")
    stranger = next((what for mark, what in STRANGERS.items() if head.startswith(mark)), None)
    if head[TAR_MARK_AT:].startswith(b"ustar"):
        stranger = "a tar archive"
    if stranger is not None:
        raise Invalid(f"The file is {stranger}.", hint=READABLE, code="file.kind")
    for mark, encoding in WIDE_MARKS.items():
        if head.startswith(mark):
            raise _encoding(0, f"it begins as {encoding} does")
    if len(head) >= 4 and head[:200:2].count(0) + head[1:200:2].count(0) > len(head[:200]) // 3:
        raise _encoding(head.index(0), "every other byte is zero, as in UTF-16")


def json_shape(text: str, named: Shape | None) -> Shape | None:
    """JSON in one of its two forms, or None where the text is not JSON. Raises `Invalid` for a form that its name denies."""
    if text.startswith("["):
        return _array_shape(text, named)
    if named == Shape.JSON and text.startswith("{"):
        first_line, line_end, _ = text.partition("\n")
        if line_end and not _is_object(first_line) and not first_line.rstrip().endswith("}"):
            raise Invalid(
                "The file is one JSON object, not a list of rows.",
                hint="Write a list of objects, or one object a line.",
                code="file.one_object",
            )
    if named in (Shape.JSON, Shape.JSONL):
        return Shape.JSONL
    first_line, line_end, _ = text.partition("\n")
    is_cut_off = not line_end and len(text) > HEAD_BYTES // 4
    return Shape.JSONL if text.startswith("{") and (is_cut_off or _is_object(first_line)) else None


def _array_shape(text: str, named: Shape | None) -> Shape | None:
    if named == Shape.JSONL:
        raise Invalid(
            "The file is a JSON array, and a .jsonl file holds one object per line.",
            hint="Name it .json, or write one object a line.",
            code="file.array_in_jsonl",
        )
    rest = text[1:].lstrip()
    holds_objects = rest[:1] in ("{", "]") or (named is None and not rest)  # a list that is cut off behind its bracket
    return Shape.JSON if named == Shape.JSON or holds_objects else None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def guessed_shape(text: str) -> Shape:
    """A nameless text is a table where its first line names columns that some shape knows."""
    from backend.core.catalog import FORMATS

    header = text.partition("\n")[0]
    for shape, delimiter in ((Shape.CSV, delimiter_of(header)), (Shape.TSV, "\t")):
        columns = header_of(header, delimiter)
        if len(columns) > 1 and any(each.mapping(columns) for each in FORMATS):
            return shape
    return Shape.CSV if header.strip().lower() == "text" else Shape.TXT


def delimiter_of(header: str) -> str:
    """The separator that gives the header most columns; a comma where none does."""
    return max(",;\t", key=lambda mark: len(header_of(header, mark)))


def header_of(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


class _Unpacked(io.RawIOBase):
    """The content of a plain or gzipped file, counted: more than the limit is refused before it is held."""

    def __init__(self, source: Source, raw: BinaryIO) -> None:
        self.source, self.raw, self.count = source, raw, 0
        self.content = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if source.gzipped else raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            block = self.content.read(len(buffer))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise Invalid(
                "The archive is damaged or cut off.", hint="Pack and upload it again.", code="file.damaged_archive"
            ) from error
        self.count += len(block)
        self.source.position = self.raw.tell()
        if self.count > self.source.unpacked_limit:
            raise TooLarge(
                f"The file expands past the limit of {self.source.unpacked_limit // MIB:,} MiB.",
                hint="Upload it in several smaller files.",
                code="file.expands",
            )
        buffer[: len(block)] = block
        return len(block)


def _encoding(offset: int, why: str) -> Invalid:
    return Invalid(
        f"The file is not UTF-8: {why} (byte {offset:,}).",
        hint="Save it as UTF-8.",
        where=f"byte {offset}",
        code="file.encoding",
    )
