"""Data sets of long rows, and how much is held while one is read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from backend.core.datasets.schema import Row
from backend.core.datasets.writer import Writer

MIB = 1 << 20


def written(path: Path, rows: Iterable[Row]) -> Path:
    """The file of a data-set version, as the product writes it."""
    with Writer(path) as writer:
        for row in rows:
            writer.add(row)
    return path


def long_rows(count: int, characters: int = MIB) -> Iterator[Row]:
    """Plain texts, all of them different."""
    for number in range(1, count + 1):
        yield Row(number, text=f"{number} " + "a" * characters)


def most_held(work: Callable[[], Iterable[Any]]) -> int:
    """Bytes that Python and Arrow held at most while the items came, beyond what they held before."""
    import pyarrow as pa

    before, tables = pa.total_allocated_bytes(), 0
    tracemalloc.start()
    try:
        for _ in work():
            tables = max(tables, pa.total_allocated_bytes() - before)
        return tables + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
