"""What benchmarks share: instruments, and figures of many quick rounds of both sides, told as medians with their range."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.rows import Row, row

Measured = TypeVar("Measured")

PAINTED = """
const frame = () => new Promise(requestAnimationFrame);
const painted = () => new Promise((done) => { // within a frame: when that frame is on the screen
  const channel = new MessageChannel(); // its message comes after the painting
  channel.port1.onmessage = () => done(performance.now());
  channel.port2.postMessage(0);
});
"""
"""For scripts on a page: when it looks like that."""


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
        ranges = [f"ours {span(self.ours)}"]
        ranges += [f"{self.peer_name} {span(self.peer)}"] if self.peer else []
        ours = statistics.median(self.ours)
        return row(row_id, self.name, self.unit, ours, peer, most=self.goal, beside=", ".join(ranges))


def in_turns(sides: Mapping[str, Callable[[int], Measured]], rounds: int) -> list[dict[str, Measured]]:
    """What came of each side, which is told the number of the round. Each round takes them in the opposite order of the last: who
    follows finds files in memory, the disk busy and the processor warm, and that must not always be the same."""
    orders = [[*sides], [*sides][::-1]]
    return [{side: sides[side](at) for side in orders[at % 2]} for at in range(rounds)]


def span(values: Sequence[float], digits: int = 2) -> str:
    """The least and the most of several rounds."""
    return f"[{min(values):.{digits}f}–{max(values):.{digits}f}]"


def column(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [each[name] for each in rows]


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]
