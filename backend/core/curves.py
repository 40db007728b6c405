"""A run's metrics as charts read them: whole where they are short, else the extremes of equal stretches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Double,
    Executable,
    Select,
    SQLColumnExpression,
    Subquery,
    bindparam,
    cast,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, array
from sqlalchemy.orm import Session

from backend.core.bulk import among
from backend.core.models import Bucket, Json, Point
from backend.core.points import WIDTHS, Extremes, word

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


def grain(steps: int, points: int) -> tuple[int, int]:
    """How many steps come to two points where so many steps are thinned to about so many points, and the width of the buckets
    which such a stretch is made of: only whole ones, so it is up to a third longer or shorter than what was asked for."""
    stretch = max(1, math.ceil(2 * steps / points))
    width = max((width for width in WIDTHS if width <= stretch), default=1)
    return width * round(stretch / width), width


def values_at(
    session: Session, run_id: UUID, names: Sequence[str], steps: Sequence[int]
) -> dict[int, dict[str, float]]:
    """These metrics at these steps."""
    found: dict[int, dict[str, float]] = {step: {} for step in steps}
    where = (Point.run_id == run_id, Point.name.in_(names), among(Point.step, steps))
    for step, name, value in session.execute(select(Point.step, Point.name, Point.value).where(*where)):
        found[step][name] = value
    return found


def times(session: Session, run_id: UUID, shown: Mapping[str, Curve]) -> list[tuple[int, float]]:
    """When each step of these curves was measured, in seconds since the epoch, by step."""
    steps = {step for curve in shown.values() for step, _ in curve}
    where = (Point.run_id == run_id, among(Point.name, shown), among(Point.step, steps))
    query = select(Point.step, func.min(Point.at)).where(*where).group_by(Point.step).order_by(Point.step)
    return [(step, at) for step, at in session.execute(query)]


def latest(session: Session, run_id: UUID) -> Json:
    """The newest value of each metric."""
    metric = select(Bucket.name).where(Bucket.run_id == run_id, Bucket.width == WIDTHS[-1]).distinct().subquery()
    newest = select(Point.value).where(Point.run_id == run_id, Point.name == metric.c.name)
    newest = newest.order_by(Point.step.desc()).limit(1).correlate(metric)
    return {name: word(value) for name, value in session.execute(select(metric.c.name, newest.scalar_subquery()))}


# ---- what is asked of Postgres ---------------------------------------------------------------------------------------

_RUN: BindParameter[UUID] = bindparam("run")
_NAME: BindParameter[str] = bindparam("name")
_LOW: BindParameter[int] = bindparam("low")
_HIGH: BindParameter[int] = bindparam("high")
_LAST_STEP = 2**63 - 1


def _spans(
    session: Session, run_id: UUID, names: Sequence[str], first: int | None, last: int | None, points: int
) -> list[tuple[str, int, int, int]]:
    """Name, first and last step, and number of points of each metric, counted no further than one past `points`."""
    asked = {"low": first or 0, "high": _LAST_STEP if last is None else last, "most": points + 1}
    rows = _rows(session, _SPANS_OF if names else _SPANS, run=run_id, names=names, **asked)
    return [(name, low, high, count) for name, low, high, count in rows]


def _all(session: Session, run_id: UUID, name: str, low: int, high: int) -> Curve:
    return [(step, word(value)) for step, value in _rows(session, _POINTS, run=run_id, name=name, low=low, high=high)]


def _thin(session: Session, run_id: UUID, name: str, low: int, high: int, points: int) -> Curve:
    """Two extremes, and the first odd value, of each stretch: of whole buckets inside, of single points at the ragged ends,
    and of nothing but points where a stretch is narrower than any bucket."""
    stretch, width = grain(high - low + 1, points)
    begin = -(-low // width) if width > 1 else high + 1
    end = max(begin, (high + 1) // width)
    asked = {"run": run_id, "name": name, "stretch": stretch}
    ends = {"low": low, "head": min(high, begin * width - 1), "tail": end * width, "high": high}
    rows = [*_rows(session, _OF_POINTS, **asked, **ends)]
    if begin < end:
        rows += _rows(session, _OF_BUCKETS, **asked, width=width, begin=begin, end=end)
    found: dict[Any, float] = {}
    for low_step, low_value, high_step, high_value, odd_step, odd_value in rows:
        found[low_step], found[high_step], found[odd_step] = low_value, high_value, odd_value
    found.pop(None, None)  # where a stretch has none
    return [(step, word(value)) for step, value in sorted(found.items())]


def _rows(session: Session, statement: Executable, **asked: Any) -> Sequence[Any]:
    """Past the mapper: these are many rows, and no objects."""
    return session.connection().execute(statement, asked).all()


# Statements are built once: that took as long as what they ask.


def _spans_of(metric: Subquery) -> Executable:
    """Every answer comes from the ends of an index: counting a million points to learn that they are many took longer than
    reading the curve."""
    inside = select(Point).where(Point.run_id == _RUN, Point.name == metric.c.name, Point.step.between(_LOW, _HIGH))
    low = inside.with_only_columns(func.min(Point.step)).correlate(metric).scalar_subquery()
    high = inside.with_only_columns(func.max(Point.step)).correlate(metric).scalar_subquery()
    some = (
        inside.with_only_columns(Point.step).order_by(Point.step).limit(bindparam("most")).correlate(metric).lateral()
    )
    count = select(func.count()).select_from(some).scalar_subquery()
    spans = select(metric.c.name, low.label("low"), high.label("high"), count.label("count")).subquery()
    return select(spans).where(spans.c.low.is_not(None)).order_by(spans.c.name)


def _extremes(step: SQLColumnExpression[int], *extremes: SQLColumnExpression[Any]) -> Select[*tuple[Any, ...]]:
    """Step and value of the lowest, the highest and the first odd point of each stretch of what has these extremes, in the order
    of `Extremes`, and lies at `step`. A value and its step are compared as one array, so of equal values the lowest is the
    first and the highest the last."""
    low, low_step, high, high_step, odd, odd_step = extremes
    lowest = func.min(_pair(low, low_step), type_=ARRAY(Double)).filter(func.abs(low) < math.inf)
    highest = func.max(_pair(high, high_step), type_=ARRAY(Double)).filter(func.abs(high) < math.inf)
    first = func.min(_pair(odd_step, odd), type_=ARRAY(Double)).filter(func.abs(odd) >= math.inf)  # as NaN is
    found = ((lowest[2], lowest[1]), (highest[2], highest[1]), (first[1], first[2]))
    cells = [cell for step, value in found for cell in (cast(step, BigInteger), value)]
    return select(*cells).group_by(step // bindparam("stretch", type_=BigInteger))


def _pair(*both: SQLColumnExpression[Any]) -> array[Any]:
    return array([cast(each, Double) for each in both])  # steps are exact below 2⁵³


_CALLED = select(Bucket.name).where(Bucket.run_id == _RUN, Bucket.width == WIDTHS[-1]).distinct()
"""The widest buckets, a handful even of a million points, know the names."""
_SPANS = _spans_of(_CALLED.subquery())
_SPANS_OF = _spans_of(_CALLED.where(Bucket.name.in_(bindparam("names", expanding=True))).subquery())
_OWN_POINTS = (Point.run_id == _RUN, Point.name == _NAME)
_POINTS = select(Point.step, Point.value).where(*_OWN_POINTS, Point.step.between(_LOW, _HIGH)).order_by(Point.step)
_OF_POINTS = _extremes(Point.step, *3 * (Point.value, Point.step)).where(
    *_OWN_POINTS,
    Point.step.between(_LOW, bindparam("head")) | Point.step.between(bindparam("tail"), _HIGH),
)
_OF_BUCKETS = _extremes(Bucket.bucket * Bucket.width, *(getattr(Bucket, name) for name in Extremes._fields)).where(
    Bucket.run_id == _RUN,
    Bucket.name == _NAME,
    Bucket.width == bindparam("width"),
    Bucket.bucket >= bindparam("begin"),
    Bucket.bucket < bindparam("end"),
)
