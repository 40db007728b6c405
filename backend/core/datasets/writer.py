"""Normalised rows to Parquet, counted, with equal ones found exactly."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from backend.core.datasets.problems import BadRow
from backend.core.datasets.schema import Row, arrow_schema, to_record

GROUP_ROWS = 1000
GROUP_CHARACTERS = 8 << 20
"""A row group is what a page of the preview or a training worker reads at once."""
TURN_CHARACTERS = 64
"""Counted for a turn besides its texts: in memory, many short turns take up more than what they say."""
DIGEST_BYTES = 16
HEAPS = 64
SPILL_ROWS = 500_000
RAW_CHARACTERS = 20_000
"""A record is kept beside its row for people to look at, a longer one only so far."""


@dataclass
class Counts:
    rows: int = 0
    characters: int = 0
    turns: int = 0
    learned_turns: int = 0


@dataclass
class Writer:
    """Writes rows to `path` in groups. The same rows give the same bytes."""

    path: Path
    counts: Counts = field(default_factory=Counts)

    def __enter__(self) -> Writer:
        import pyarrow.parquet as pq

        self._schema = arrow_schema()
        self._file = pq.ParquetWriter(self.path, self._schema, compression="zstd", use_dictionary=False)
        self._digests = Digests(self.path.parent)
        self._group: list[dict[str, Any]] = []
        self._characters = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write_group()
                self.duplicates = self._digests.duplicates()
        finally:
            self._file.close()
            self._digests.close()

    def add(self, row: Row, raw: str | None = None) -> None:
        """`raw` is the record as it stood in the file. Raises `BadRow` for text that cannot be stored."""
        digest, characters = fingerprint(row)
        self._digests.add(digest)
        self._group.append(to_record(row) | {"raw": raw})
        self._characters += _weight(row) + len(raw or "")
        self.counts.rows += 1
        self.counts.characters += characters
        self.counts.turns += len(row.messages)
        self.counts.learned_turns += sum(message.role == "assistant" and message.train for message in row.messages)
        if len(self._group) >= GROUP_ROWS or self._characters >= GROUP_CHARACTERS:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        if self._group:
            self._file.write_table(pa.Table.from_pylist(self._group, self._schema))
        self._group, self._characters = [], 0


def _weight(row: Row) -> int:
    """In characters, of all that is stored of it."""
    turns = (len(turn.content) + len(turn.tool_calls or "") + len(turn.name or "") for turn in row.messages)
    return sum(turns) + TURN_CHARACTERS * len(row.messages) + len(row.text or "") + len(row.tools or "")


def raw_text(record: Mapping[str, Any]) -> str:
    """A record as JSON for people to look at, cut off where it is very long."""
    text = json.dumps(record, ensure_ascii=False, default=str)
    text = text if len(text) <= RAW_CHARACTERS else text[:RAW_CHARACTERS] + "…"
    return text.encode(errors="backslashreplace").decode()  # half of a pair cannot be stored


def fingerprint(row: Row) -> tuple[bytes, int]:
    """A digest that equal rows share wherever they stand, and the row's characters. Raises `BadRow` for text that is none."""
    parts = [row.text or "", row.tools or ""]
    for message in row.messages:
        parts += (
            message.role,
            message.content,
            message.name or "",
            message.tool_calls or "",
            "1" if message.train else "",
        )
    whole = "\0".join(parts)
    if whole.count("\0") >= len(parts):
        raise BadRow("rows.nul", "holds a NUL character (\\u0000), which is not allowed in text.")
    try:
        digest = hashlib.blake2b(whole.encode(), digest_size=DIGEST_BYTES).digest()
    except UnicodeEncodeError as error:
        character = f"\\u{ord(whole[error.start]):04x}"
        raise BadRow("rows.unicode", f"holds invalid Unicode: {character} is half of a pair.") from None
    return digest, len(row.text or "") + sum(len(message.content) for message in row.messages)


class Digests:
    """Counts equal rows exactly. Digests are parted into heaps; beyond a few megabytes the heaps lie on disk, and only one
    at a time is held in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held = [bytearray() for _ in range(HEAPS)]
        self.spilled: list[IO[bytes]] = []
        self.count = 0

    def add(self, digest: bytes) -> None:
        self.held[digest[0] % HEAPS] += digest
        self.count += 1
        if self.count % SPILL_ROWS == 0:
            self._spill()

    def _spill(self) -> None:
        if not self.spilled:
            self.spilled = [tempfile.TemporaryFile(dir=self.folder) for _ in range(HEAPS)]  # noqa: SIM115 -- see close
        for file, heap in zip(self.spilled, self.held, strict=True):
            file.write(heap)
            heap.clear()

    def duplicates(self) -> int:
        """How many rows equal an earlier one."""
        return sum(_repeated(self._heap(index)) for index in range(HEAPS))

    def _heap(self, index: int) -> bytes:
        if not self.spilled:
            return bytes(self.held[index])
        self.spilled[index].seek(0)
        return self.spilled[index].read() + bytes(self.held[index])

    def close(self) -> None:
        for file in self.spilled:
            file.close()


def _repeated(digests: bytes) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    count = len(digests) // DIGEST_BYTES
    array = pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), count, [None, pa.py_buffer(digests)])
    return count - int(pc.count_distinct(array).as_py())
