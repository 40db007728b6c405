"""What is known of an upload while it flows: its hash, and how many rows have come so far.

The state of a hash cannot be written down, so it lives in memory beside the part file. Where it was lost, what lies on disk is
gone through again; a large file then simply has no count until it is read.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from backend.core.datasets.source import (
    EXPANSION,
    EXPANSION_FLOOR,
    SUFFIXES,
    Shape,
    content_suffix,
    delimiter_of,
    shape_of,
)
from backend.core.errors import StudioError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Block = bytes | memoryview
MIB = 1 << 20
TAB, NEWLINE, CARRIAGE_RETURN, SPACE = b"\t\n\r "
"""Whitespace is a space, and what stands from the first to the third."""
TELLING_BYTES = 4096
"""So much is looked at before the kind of file is told."""
RECOUNT_BYTES = 256 * MIB
CARRIED_BYTES = MIB
JOINED = 200
"""Archives that end within one block: each of them copies the rest of the block."""
KEPT = 64


class Counter(Protocol):
    """Counts rows in a stream of bytes. `rows` includes one that has only begun; None once it cannot be told."""

    @property
    def rows(self) -> int | None: ...

    def add(self, block: Block) -> None: ...


class Nothing:
    """For files whose rows cannot be counted as they come: Parquet, a JSON array, whatever will be refused."""

    rows = None

    def add(self, block: Block) -> None:
        """There is nothing to count."""


class Lines:
    """Lines that hold something besides whitespace. The arithmetic lets other threads run, and copies no line."""

    def __init__(self) -> None:
        self.ended, self.begun = 0, False

    @property
    def rows(self) -> int | None:
        return self.ended + self.begun

    def add(self, block: Block) -> None:
        import numpy as np

        text = np.frombuffer(block, np.uint8)
        if not text.size:
            return
        ends = text == NEWLINE
        may_be_blank = ends[:-1] & (text[1:] <= SPACE)  # only a line that begins with whitespace can be
        if (self.begun or text[0] > SPACE) and not may_be_blank.any():
            self.ended, self.begun = self.ended + int(np.count_nonzero(ends)), not ends[-1]
        else:
            self._add_filled(ends[ends | ~((text == SPACE) | (text - TAB <= CARRIAGE_RETURN - TAB))])

    def _add_filled(self, ends: NDArray[np.bool_]) -> None:
        """Of all bytes but whitespace and the ends of lines, which are ends: one behind another byte ends a line of something."""
        if ends.size:
            self.ended += int(ends[0] and self.begun) + int((ends[1:] & ~ends[:-1]).sum())
            self.begun = not ends[-1]


class Records:
    """Rows of a table below its header, as the `csv` module parts them: a quoted cell may hold line breaks."""

    def __init__(self, delimiter: str) -> None:
        mark = re.escape(delimiter.encode())
        cell = rb'(?:"(?:[^"]|"")*+"[^%b\r\n]*+|[^%b"\r\n][^%b\r\n]*+|)' % (mark, mark, mark)
        self.record = re.compile(rb"(%b(?:%b%b)*+)(?:\r\n|\r|\n)" % (cell, mark, cell))
        self.ended, self.carried, self.is_lost = 0, b"", False

    @property
    def rows(self) -> int | None:
        return None if self.is_lost else max(0, self.ended + bool(self.carried.strip()) - 1)

    def add(self, block: Block) -> None:
        if self.is_lost:
            return
        text, at = self.carried + block, 0
        while found := self.record.match(text, at):
            record = found.end(1) - at
            self.ended += bool(record)
            self.is_lost |= record > CARRIED_BYTES  # however it came in pieces, none of which may have been carried
            at = found.end()
        self.carried = text[at:]
        self.is_lost |= len(self.carried) > CARRIED_BYTES


class Unpacked:
    """The content of a gzipped stream, bounded: what unpacks too far is left to the reading, which refuses it in words."""

    def __init__(self) -> None:
        self.stream = zlib.decompressobj(31)
        self.taken = self.given = 0

    def blocks(self, packed: Block) -> Iterator[bytes]:
        """Raises `zlib.error` for damage, `OverflowError` for a bomb."""
        self.taken += len(packed)
        block, joined = b"", 0
        while packed or len(block) == MIB:  # a full block may have left more inside
            block = self.stream.decompress(packed, MIB)
            self.given += len(block)
            if self.given > max(EXPANSION_FLOOR, EXPANSION * self.taken):
                raise OverflowError
            yield block
            packed = self.stream.unconsumed_tail
            if self.stream.eof:  # archives may be joined
                joined += 1
                if joined > JOINED:
                    raise OverflowError
                packed, block, self.stream = self.stream.unused_data, b"", zlib.decompressobj(31)


class Tally:
    """Hash and rows of the first `offset` bytes of a file."""

    def __init__(self, name: str) -> None:
        self.name, self.offset, self.digest = name, 0, hashlib.sha256()
        self.unpacked: Unpacked | None = None
        self.counter: Counter | None = None
        self.held = b""

    @property
    def rows(self) -> int | None:
        return self.counter.rows if self.counter else None

    def add(self, block: Block) -> None:
        """Take the bytes that come next."""
        self.digest.update(block)
        if self.offset == 0 and block[:2] == b"\x1f\x8b":
            self.unpacked = Unpacked()
        self.offset += len(block)
        try:
            for part in self.unpacked.blocks(block) if self.unpacked else (block,):
                self._count(part)
        except (zlib.error, OverflowError):
            self.counter, self.unpacked, self.held = Nothing(), None, b""

    def _count(self, block: Block) -> None:
        if self.counter is None:
            self.held += block
            if len(self.held) < TELLING_BYTES:
                return
            block, self.held = self.held, b""
            # Of the same bytes however they come in pieces: another head might be taken for another kind of file.
            self.counter = counter_for(block[:TELLING_BYTES], self.name, gzipped=self.unpacked is not None)
        self.counter.add(block)


def counter_for(head: bytes, name: str, *, gzipped: bool) -> Counter:
    suffix = content_suffix(name)
    try:
        shape = shape_of(head, suffix, gzipped=gzipped)
    except StudioError:
        return Nothing()
    if shape in (Shape.JSONL, Shape.TXT):
        return Lines()
    if shape not in (Shape.CSV, Shape.TSV):
        return Nothing()
    first = head.decode(errors="ignore").removeprefix("\ufeff").lstrip().partition("\n")[0]
    return Records("\t" if SUFFIXES.get(suffix) == Shape.TSV else delimiter_of(first))


class Tallies:
    """The tallies of one process's uploads, the least used forgotten first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[UUID, Tally] = OrderedDict()
        self.lock = Lock()

    def at(self, id: UUID, offset: int) -> Tally | None:
        """The tally of exactly the first `offset` bytes, where it is known."""
        with self.lock:
            found = self.kept.get(id)
            if found is not None:
                self.kept.move_to_end(id)
        return found if found is not None and found.offset == offset else None

    def made(self, id: UUID, name: str, part: Path, offset: int) -> Tally | None:
        """The same, counted again where it was lost. Blocks. None where that would take too long."""
        known = self.at(id, offset)
        if known is not None or offset > RECOUNT_BYTES:
            return known
        tally = Tally(name)
        with open(part, "rb") as file:
            while block := file.read(min(MIB, offset - tally.offset)):
                tally.add(block)
        with self.lock:
            self.kept[id] = tally
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        return tally

    def forget(self, id: UUID) -> None:
        with self.lock:
            self.kept.pop(id, None)
