"""What benchmarks of many quick rounds share: both sides in one run, taking turns, told as medians with their range."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.rows import Row, row


@dataclass(frozen=True)
class Figure:
    """One quantity of ours beside the peer's, where there is one. `goal` is the most that ours may be."""

    name: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    peer_name: str = ""
    goal: float | None = None

    def row(self, row_id: str) -> Row:
        peer = statistics.median(self.peer) if self.peer else None
        ranges = [f"ours {_range(self.ours)}"]
        ranges += [f"{self.peer_name} {_range(self.peer)}"] if self.peer else []
        ours = statistics.median(self.ours)
        return row(row_id, self.name, self.unit, ours, peer, most=self.goal, beside=", ".join(ranges))


def _range(values: Sequence[float]) -> str:
    return f"[{min(values):.2f}–{max(values):.2f}]"


def column(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [each[name] for each in rows]
