"""Small data files for these tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from backend.core.assignment import DataFile
from backend.core.datasets.schema import Message, Row, arrow_schema, to_record
from backend.core.recipe import Recipe


def talk(number: int, question: str, answer: str) -> Row:
    return Row(number, messages=(Message("user", question), Message("assistant", answer)))


def talks(count: int, first: int = 1) -> list[Row]:
    """Different rows, each a word longer than the one before, in cycles of 20."""
    return [talk(n, f"What is {n}?", f"It is {n}{' and so on' * (n % 20)}.") for n in range(first, first + count)]


def store(folder: Path, rows: Sequence[Row], name: str = "talks", weight: float | None = None) -> DataFile:
    path = folder / f"{name}-{len(rows)}.parquet"
    parquet.write_table(pa.Table.from_pylist([to_record(row) for row in rows], schema=arrow_schema()), path)
    return DataFile(name=name, version=1, path=path, weight=weight)


def recipe(*, eval_share: float = 0.0, sets: Sequence[str] = ("talks",), **data: object) -> Recipe:
    body = {"model": "tiny", "data": {"sets": list(sets), **data}, "evaluation": {"eval_share": eval_share}}
    return Recipe.model_validate(body)
