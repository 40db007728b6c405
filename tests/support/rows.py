"""Small data sets as the trainer reads them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from backend.core.datasets.schema import Message, Row, arrow_schema, to_record

FOOD = {"cat": "fish", "cow": "grass", "owl": "mice", "duck": "bread", "frog": "flies", "horse": "hay"}


def chat_rows(count: int) -> list[Row]:
    """Short conversations of different lengths, all of them different."""
    draw = random.Random(0)
    rows = []
    for number in range(1, count + 1):
        animal = draw.choice(list(FOOD))
        answer = f"Ahoy! the {animal} eats {FOOD[animal]}, matey! " * draw.randint(1, 3)
        rows.append(
            Row(number, (Message("user", f"What eats {animal} {number}?"), Message("assistant", answer.strip())))
        )
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([to_record(row) for row in rows], schema=arrow_schema()), path)
    return path
