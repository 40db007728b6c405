"""A run's metrics as charts read them: whole where they are short, else the extremes of equal stretches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.core.models import Bucket, Json, Point
from backend.core.points import WIDTHS, Extremes, Pair, stretches, word

Curve = list[tuple[int, float | str]]


def read(
    session: Session,
    run_id: UUID,
    names: Sequence[str] = (),
    *,
    first: int | None = None,
    last: int | None = None,
    points: int = 1000,
) -> dict[str, Curve]:
    """Each metric's (step, value) pairs between two steps, both included: all of them where they are at most `points`,
    else the extremes of equal stretches, so that no spike is ever lost. Values that JSON cannot hold are words.
    """
    return {
        name: _all(session, run_id, name, low, high)
        if count <= points
        else _thin(session, run_id, name, low, high, points)
        for name, low, high, count in _spans(session, run_id, names, first, last, points)
    }


def values_at(
    session: Session, run_id: UUID, names: Sequence[str], steps: Sequence[int]
) -> dict[int, dict[str, float]]:
    """These metrics at these steps."""
    found: dict[int, dict[str, float]] = {step: {} for step in steps}
    where = (Point.run_id == run_id, Point.name.in_(names), Point.step.in_(steps))
    for step, name, value in session.execute(select(Point.step, Point.name, Point.value).where(*where)):
        found[step][name] = value
    return found


def times(session: Session, run_id: UUID, shown: Mapping[str, Curve]) -> list[tuple[int, float]]:
    """When each step of these curves was measured, in seconds since the epoch, by step."""
    steps = {step for curve in shown.values() for step, _ in curve}
    where = (Point.run_id == run_id, Point.name.in_(list(shown)), Point.step.in_(steps))
    query = select(Point.step, func.min(Point.at)).where(*where).group_by(Point.step).order_by(Point.step)
    return [(step, at) for step, at in session.execute(query)]


def latest(session: Session, run_id: UUID) -> Json:
    """The newest value of each metric."""
    metric = select(Bucket.name).where(Bucket.run_id == run_id, Bucket.width == WIDTHS[-1]).distinct().subquery()
    newest = select(Point.value).where(Point.run_id == run_id, Point.name == metric.c.name)
    newest = newest.order_by(Point.step.desc()).limit(1).correlate(metric)
    return {name: word(value) for name, value in session.execute(select(metric.c.name, newest.scalar_subquery()))}


def _spans(
    session: Session, run_id: UUID, names: Sequence[str], first: int | None, last: int | None, points: int
) -> list[tuple[str, int, int, int]]:
    """Name, first and last step, and number of points of each metric, counted no further than one past `points`.

    Every answer comes from the ends of an index: counting a million points to learn that they are many took longer
    than reading the curve. The widest buckets, a handful even then, know the names.
    """
    called = select(Bucket.name).where(Bucket.run_id == run_id, Bucket.width == WIDTHS[-1])
    metric = (called.where(Bucket.name.in_(names)) if names else called).distinct().subquery()
    inside = select(Point).where(Point.run_id == run_id, Point.name == metric.c.name)
    inside = inside.where(Point.step >= first) if first is not None else inside
    inside = inside.where(Point.step <= last) if last is not None else inside
    low = inside.with_only_columns(func.min(Point.step)).correlate(metric).scalar_subquery()
    high = inside.with_only_columns(func.max(Point.step)).correlate(metric).scalar_subquery()
    some = inside.with_only_columns(Point.step).limit(points + 1).correlate(metric).lateral()
    count = select(func.count()).select_from(some).scalar_subquery()
    spans = select(metric.c.name, low.label("low"), high.label("high"), count.label("count")).subquery()
    rows = session.execute(select(spans).where(spans.c.low.is_not(None)).order_by(spans.c.name))
    return [(name, low, high, count) for name, low, high, count in rows]


def _all(session: Session, run_id: UUID, name: str, low: int, high: int) -> Curve:
    return [(step, word(value)) for step, value in _points(session, run_id, name, low, high)]


def _thin(session: Session, run_id: UUID, name: str, low: int, high: int, points: int) -> Curve:
    """Two extremes, and the first odd value, of each stretch. Whole buckets inside, single points at the ragged ends."""
    stretch = max(1, math.ceil(2 * (high - low + 1) / points))
    width = max((w for w in WIDTHS if w <= stretch), default=0)
    if not width:
        return _extremes(_points(session, run_id, name, low, high), stretch)
    first, last = -(-low // width), (high + 1) // width
    rows = _points(session, run_id, name, low, min(high, first * width - 1))
    rows += _buckets(session, run_id, name, width, first, last)
    rows += _points(session, run_id, name, max(low, last * width), high)
    return _extremes(rows, stretch)


def _points(session: Session, run_id: UUID, name: str, low: int, high: int) -> list[Pair]:
    if low > high:
        return []
    inside = (Point.run_id == run_id, Point.name == name, Point.step.between(low, high))
    rows = session.execute(select(Point.step, Point.value).where(*inside).order_by(Point.step))
    return [(step, value) for step, value in rows]


def _buckets(session: Session, run_id: UUID, name: str, width: int, first: int, last: int) -> list[Pair]:
    columns = (Bucket.low, Bucket.low_step, Bucket.high, Bucket.high_step, Bucket.odd, Bucket.odd_step)
    level = (Bucket.run_id == run_id, Bucket.name == name, Bucket.width == width)
    inside = (*level, Bucket.bucket >= first, Bucket.bucket < last)
    rows = session.execute(select(*columns).where(*inside).order_by(Bucket.bucket))
    return [pair for row in rows for pair in Extremes(*row).pairs()]


def _extremes(rows: Sequence[Pair], stretch: int) -> Curve:
    return [(step, word(value)) for _, extremes in stretches(rows, stretch) for step, value in extremes.pairs()]
