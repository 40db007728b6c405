"""Which rows are held back to measure on, and which are drawn in an epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.core.datasets.schema import Row

if TYPE_CHECKING:
    import numpy as np


def lot(row: Row, seed: int) -> float:
    """A number in [0, 1) that depends on what the row says and the seed alone.

    Rows below the share are held back. They stay so when the data set grows, and equal rows share their lot, so that
    none is both learned and measured on.
    """
    said = [[turn.role, turn.content, turn.name, turn.tool_calls] for turn in row.messages]
    content = json.dumps([seed, said, row.text, row.tools], ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / (1 << 53)


def hold_back(lots: Sequence[float], share: float) -> list[bool]:
    """One flag a row. At least one row, with its equals, is left to train on."""
    held = [each < share for each in lots]
    if held and all(held):
        last = max(lots)
        return [each != last for each in lots]
    return held


def draw(sizes: Sequence[int], weights: Sequence[float | None], seed: int) -> list[tuple[int, int]]:
    """The rows of one epoch as `(set, row of the set)`, shuffled.

    Without weights each row is drawn once. With them an epoch has as many rows as there are, and each set its share of
    these: a set is gone through whole as often as that takes, then in part, in an order of its own.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    counts = list(sizes) if any(each is None for each in weights) else _shares(sizes, [w or 0.0 for w in weights])
    drawn = [
        (number, row)
        for number, (size, count) in enumerate(zip(sizes, counts, strict=True))
        for row in _some(size, count, generator)
    ]
    return [drawn[each] for each in generator.permutation(len(drawn)).tolist()]


def _shares(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many rows each set gives, rounded so that they sum up; an empty set gives none."""
    weights = [weight if size else 0.0 for size, weight in zip(sizes, weights, strict=True)]
    total, rows = sum(weights), sum(sizes)
    if not total:
        return [0 for _ in sizes]
    exact = [rows * weight / total for weight in weights]
    counts = [int(each) for each in exact]
    by_remainder = sorted(range(len(exact)), key=lambda n: (counts[n] - exact[n], n))
    for number in by_remainder[: rows - sum(counts)]:
        counts[number] += 1
    return counts


def _some(size: int, count: int, generator: np.random.Generator) -> list[int]:
    if not size:
        return []
    rest: list[int] = generator.permutation(size)[: count % size].tolist()
    return list(range(size)) * (count // size) + rest
