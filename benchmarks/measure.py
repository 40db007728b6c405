"""What every benchmark shares: both sides in one run, taking turns, told as medians and a ratio."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One quantity of ours beside the peer's. `goal` is the most that ours may be."""

    name: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float]
    peer_name: str
    goal: float | None = None


def report(title: str, figures: Sequence[Figure]) -> None:
    """Print medians, ranges and the ratio, one line a figure."""
    print(f"\n{title}")
    for figure in figures:
        ours, peer = statistics.median(figure.ours), statistics.median(figure.peer)
        goal = "" if figure.goal is None else f"  goal ≤ {figure.goal:g}: {'met' if ours <= figure.goal else 'MISSED'}"
        print(
            f"  {figure.name:<22} ours {ours:8.2f} [{min(figure.ours):.2f}–{max(figure.ours):.2f}] {figure.unit}"
            f"  {figure.peer_name} {peer:8.2f} [{min(figure.peer):.2f}–{max(figure.peer):.2f}]"
            f"  ratio {peer / ours:5.1f}{goal}"
        )


def column(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows]
