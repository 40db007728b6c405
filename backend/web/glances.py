"""What a list shows of a run beside its row: its curves in small, the best evaluation loss, the time that is left."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core.models import Bucket, Point, Run, State
from backend.core.outlook import left_seconds, step_seconds
from backend.core.points import WIDTHS

WIDTH, HEIGHT, MARGIN = 128, 36, 2
"""The box that lines are drawn in; the picture is stretched to its place."""
READ_POINTS, DRAWN_POINTS = 128, 32
"""How many points of a curve are read at most, and to about how many it is thinned. The best is looked for in all."""
KEPT = 1024
NAMES = ("loss", "eval_loss")

Line = list[tuple[int, float]]


@dataclass(frozen=True)
class Glance:
    """Lines are SVG paths in a box of `WIDTH` by `HEIGHT`; empty where nothing was measured."""

    loss: str = ""
    eval_loss: str = ""
    best: tuple[int, float] | None = None
    """The step and the value of the lowest evaluation loss."""
    dot: str = ""
    """A path of no length at the best evaluation loss."""
    seconds_left: float | None = None


_drawn: OrderedDict[tuple[UUID, int], Glance] = OrderedDict()
"""Lines by run and newest event: whatever changes a line is an event, so what is here is never stale."""


def glances(session: Session, runs: Sequence[Run]) -> dict[UUID, Glance]:
    """A glance at each run, in a handful of statements for all of them."""
    unknown = [run for run in runs if run.step and (run.id, run.seq) not in _drawn]
    lines = _lines(session, unknown)
    for run in unknown:
        _drawn[run.id, run.seq] = _draw(lines[run.id], run.total_steps or run.step)
    found = {run.id: _drawn.get((run.id, run.seq), Glance()) for run in runs}
    while len(_drawn) > KEPT:
        _drawn.popitem(last=False)
    left = _seconds_left(session, [run for run in runs if run.state == State.TRAINING])
    return found | {run_id: replace(found[run_id], seconds_left=seconds) for run_id, seconds in left.items()}


def _lines(session: Session, runs: Sequence[Run]) -> dict[UUID, dict[str, Line]]:
    """Each run's curves in at most about `READ_POINTS` points, from the level of buckets that fits its length."""
    levels: defaultdict[int, list[UUID]] = defaultdict(list)
    for run in runs:
        fitting = (width for width in WIDTHS if run.step <= width * READ_POINTS)
        levels[0 if run.step <= READ_POINTS else next(fitting, WIDTHS[-1])].append(run.id)
    lines: dict[UUID, dict[str, Line]] = {run.id: {name: [] for name in NAMES} for run in runs}
    for width, ids in levels.items():
        query = _buckets(width, ids) if width else _points(ids)
        for run_id, name, step, value in session.execute(query):
            lines[run_id][name].append((step, value))
    return lines


def _points(ids: list[UUID]) -> Any:
    query = select(Point.run_id, Point.name, Point.step, Point.value)
    return query.where(Point.run_id.in_(ids), Point.name.in_(NAMES)).order_by(Point.run_id, Point.name, Point.step)


def _buckets(width: int, ids: list[UUID]) -> Any:
    own = (Bucket.run_id.in_(ids), Bucket.name.in_(NAMES), Bucket.width == width, Bucket.low.is_not(None))
    query = select(Bucket.run_id, Bucket.name, Bucket.low_step, Bucket.low)
    return query.where(*own).order_by(Bucket.run_id, Bucket.name, Bucket.bucket)


def _draw(lines: dict[str, Line], total: int) -> Glance:
    finite = {name: [pair for pair in line if math.isfinite(pair[1])] for name, line in lines.items()}
    values = [value for line in finite.values() for _, value in line]
    if not values:
        return Glance()
    low, high = min(values), max(values)
    best = min(finite["eval_loss"], key=lambda pair: (pair[1], pair[0]), default=None)

    def place(step: int, value: float) -> str:
        x = WIDTH * min(1.0, step / max(1, total))
        y = MARGIN + (HEIGHT - 2 * MARGIN) * (high - value) / ((high - low) or 1)
        return f"{x:.0f} {y:.1f}"

    def path(line: Line) -> str:
        return "".join(f"{'L' if at else 'M'}{place(*pair)}" for at, pair in enumerate(_thinned(line)))

    dot = f"M{place(*best)}h0" if best else ""
    return Glance(path(finite["loss"]), path(finite["eval_loss"]), best, dot)


def _thinned(line: Line) -> Line:
    """The lowest of every few points."""
    few = math.ceil(len(line) / DRAWN_POINTS) or 1
    return [min(line[at : at + few], key=lambda pair: pair[1]) for at in range(0, len(line), few)]


def _seconds_left(session: Session, runs: Sequence[Run]) -> dict[UUID, float]:
    paces = step_seconds(session, runs) if runs else {}
    left = {run.id: left_seconds(run, paces.get(run.id)) for run in runs}
    return {run_id: seconds for run_id, seconds in left.items() if seconds is not None}
