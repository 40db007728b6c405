"""Normalised rows to Parquet, counted, with equal ones found exactly."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from backend.core.datasets.problems import BadRow
from backend.core.datasets.schema import Row, arrow_schema, to_record

GROUP_ROWS = 1000
GROUP_CHARACTERS = 8 << 20
"""A row group is what a page of the preview or a training worker reads at once."""
DIGEST_BYTES = 16


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

    def add(self, row: Row) -> None:
        """Raises `BadRow` for text that cannot be stored."""
        digest, characters = fingerprint(row)
        self._digests.add(digest)
        self._group.append(to_record(row))
        self._characters += characters
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
    """Counts equal rows exactly: digests lie on disk in 64 heaps, and one heap at a time is held in memory."""

    def __init__(self, folder: Path) -> None:
        self.heaps: list[IO[bytes]] = [tempfile.TemporaryFile(dir=folder) for _ in range(64)]  # noqa: SIM115 -- see close

    def add(self, digest: bytes) -> None:
        self.heaps[digest[0] % len(self.heaps)].write(digest)

    def duplicates(self) -> int:
        """How many rows equal an earlier one."""
        import pyarrow as pa
        import pyarrow.compute as pc

        count = 0
        for heap in self.heaps:
            heap.seek(0)
            held = heap.read()
            total = len(held) // DIGEST_BYTES
            array = pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), total, [None, pa.py_buffer(held)])
            count += total - int(pc.count_distinct(array).as_py())
        return count

    def close(self) -> None:
        for heap in self.heaps:
            heap.close()
