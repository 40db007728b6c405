"""What every benchmark shares: both sides in one run, taking turns, told as medians and a ratio."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One quantity of ours beside the peer's, where there is one. `goal` is the most that ours may be."""

    name: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    peer_name: str = ""
    goal: float | None = None


def report(title: str, figures: Sequence[Figure]) -> None:
    """Print medians, ranges and the ratio, one line a figure."""
    print(f"\n{title}")
    for figure in figures:
        ours = statistics.median(figure.ours)
        goal = "" if figure.goal is None else f"  goal ≤ {figure.goal:g}: {'met' if ours <= figure.goal else 'MISSED'}"
        print(f"  {figure.name:<22} ours {_spread(figure.ours)} {figure.unit}{_beside(figure)}{goal}")


def _beside(figure: Figure) -> str:
    if not figure.peer:
        return ""
    ratio = statistics.median(figure.peer) / statistics.median(figure.ours)
    return f"  {figure.peer_name} {_spread(figure.peer)}  ratio {ratio:5.1f}"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):8.2f} [{min(values):.2f}–{max(values):.2f}]"


def column(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows]
