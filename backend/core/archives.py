"""A folder of files as one zip of known length that is never written anywhere: downloads start at once and resume anywhere.

Files are stored, not compressed, since weights hardly compress. With their sizes and CRC-32 known beforehand every byte of the
archive is known without reading a file, so any range can be answered. Each entry is zip64, whatever its size: PKWARE's
APPNOTE 6.3.9, §4.3. zipstream-ng knows the length as well but streams from the start only; stream-zip knows neither.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

PIECE_BYTES = 1 << 20
ZIP64_VERSION, UTF8_NAMES, STORED = 45, 1 << 11, 0
DOS_TIME, DOS_DATE = 0, (1 << 5) | 1  # midnight of 1 January 1980: the same files give the same archive
UNIX, REGULAR_FILE = 3 << 8, 0o100644 << 16
IN_ZIP64, IN_ZIP64_SHORT = 0xFFFFFFFF, 0xFFFF
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)
"""What Python's reader raises for a zip that is damaged, by where it is."""


@dataclass(frozen=True)
class ArchivedFile:
    """One file of a published folder. `name` is its path within the folder, with slashes."""

    name: str
    bytes: int
    sha256: str
    crc32: int


def describe(folder: Path) -> tuple[ArchivedFile, ...]:
    """Every file of a folder, by name, read once."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(_described(path, path.relative_to(folder).as_posix()) for path in paths)


def _described(path: Path, name: str) -> ArchivedFile:
    sha256, crc32, size = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            sha256.update(piece)
            crc32, size = zlib.crc32(piece, crc32), size + len(piece)
    return ArchivedFile(name, size, sha256.hexdigest(), crc32)


def files_sha256(files: Sequence[ArchivedFile]) -> str:
    """The hash of a whole artifact: of the list that `sha256sum` prints for its files, by name."""
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in sorted(files, key=lambda file: file.name))
    return hashlib.sha256(lines.encode()).hexdigest()


Segment = tuple[int, Callable[[int, int], Iterator[bytes]]]
"""A length, and the bytes between two offsets within it."""


class Archive:
    """The zip of `folder`, with everything under one directory `root` if given. `length` and `etag` are known without reading."""

    def __init__(self, folder: Path, files: Sequence[ArchivedFile], *, root: str = "") -> None:
        prefix = f"{root}/" if root else ""
        segments: list[Segment] = []
        directory, offset = b"", 0
        for file in sorted(files, key=lambda file: file.name):
            name = (prefix + file.name).encode()
            header = local_header(name, file)
            directory += directory_entry(name, file, offset)
            segments += [_constant(header), _contents(folder / file.name, file.bytes)]
            offset += len(header) + file.bytes
        segments.append(_constant(directory + end_of_archive(len(files), len(directory), offset)))
        self._segments = segments
        self._starts = [0, *accumulate(length for length, _ in segments)]
        self.length = self._starts[-1]
        layout = hashlib.sha256(f"{files_sha256(files)} {root}".encode()).hexdigest()
        self.etag = f'"{layout}"'

    def read(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`. Raises `OSError` where a file is not what was recorded."""
        end = self.length if end is None else min(end, self.length)
        first = bisect_right(self._starts, start) - 1
        for begin, (length, contents) in zip(self._starts[first:], self._segments[first:], strict=False):
            if begin >= end:
                return
            yield from contents(max(start - begin, 0), min(end - begin, length))


def _constant(data: bytes) -> Segment:
    return len(data), lambda start, end: iter((data[start:end],) if end > start else ())


def _contents(path: Path, size: int) -> Segment:
    def read(start: int, end: int) -> Iterator[bytes]:
        if end <= start:
            return
        with path.open("rb") as file:
            file.seek(start)
            while left := end - file.tell():
                piece = file.read(min(left, PIECE_BYTES))
                if not piece:
                    raise OSError(f"{path.name} is shorter than when it was published")
                yield piece

    return size, read


def local_header(name: bytes, file: ArchivedFile) -> bytes:
    extra = struct.pack("<HHQQ", 1, 16, file.bytes, file.bytes)
    fields = (ZIP64_VERSION, UTF8_NAMES, STORED, DOS_TIME, DOS_DATE, file.crc32, IN_ZIP64, IN_ZIP64)
    return struct.pack("<4s5H3L2H", b"PK\3\4", *fields, len(name), len(extra)) + name + extra


def directory_entry(name: bytes, file: ArchivedFile, offset: int) -> bytes:
    extra = struct.pack("<HHQQQ", 1, 24, file.bytes, file.bytes, offset)
    versions = (UNIX | ZIP64_VERSION, ZIP64_VERSION)
    fields = (UTF8_NAMES, STORED, DOS_TIME, DOS_DATE, file.crc32, IN_ZIP64, IN_ZIP64, len(name), len(extra))
    comment_disk_and_attributes = (0, 0, 0, REGULAR_FILE, IN_ZIP64)
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", *versions, *fields, *comment_disk_and_attributes) + name + extra


def end_of_archive(count: int, directory_bytes: int, directory_offset: int) -> bytes:
    """The zip64 end record, its locator, and the old end record, which points to them."""
    record = struct.pack(
        "<4sQ2H2L4Q",
        b"PK\6\6",
        44,
        UNIX | ZIP64_VERSION,
        ZIP64_VERSION,
        0,
        0,
        count,
        count,
        directory_bytes,
        directory_offset,
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, directory_offset + directory_bytes, 1)
    short = (0, 0, IN_ZIP64_SHORT, IN_ZIP64_SHORT, IN_ZIP64, IN_ZIP64, 0)
    return record + locator + struct.pack("<4s4H2LH", b"PK\5\6", *short)
