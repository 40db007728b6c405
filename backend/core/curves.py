"""A run's metrics as charts read them: whole where they are short, else the extremes of equal stretches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Double,
    Executable,
    Select,
    Subquery,
    bindparam,
    func,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, array
from sqlalchemy.orm import Session

from backend.core.models import Bucket, Json, Point
from backend.core.points import WIDTHS, word

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
    """Two extremes, and the first odd value, of each stretch. Whole buckets inside, single points at the ragged ends, and
    nothing but points where a stretch is narrower than any bucket."""
    stretch = max(1, math.ceil(2 * (high - low + 1) / points))
    width = max((w for w in WIDTHS if w <= stretch), default=1)
    begin = -(-low // width) if width > 1 else high + 1
    end = max(begin, (high + 1) // width)
    buckets = {"width": width, "begin": begin, "end": end}
    ends = {"low": low, "head": min(high, begin * width - 1), "tail": end * width, "high": high}
    rows = _rows(session, _EXTREMES, run=run_id, name=name, stretch=stretch, **buckets, **ends)
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


def _extremes() -> Executable:
    """Step and value of the lowest, the highest and the first odd point of each stretch, from the buckets from `begin` to before
    `end` and the points on either side. A value and its step are compared as one array, so of equal values the lowest is
    the first and the highest the last."""
    each = union_all(*_known(), _between(_LOW, bindparam("head")), _between(bindparam("tail"), _HIGH)).subquery().c
    stretch = (each.step // bindparam("stretch", type_=BigInteger)).label("stretch")
    inside = select(each.step, each.value, stretch).subquery().c
    finite = func.abs(inside.value) < math.inf
    step = inside.step.cast(Double)  # exact below 2⁵³
    low = func.min(array([inside.value, step]), type_=ARRAY(Double)).filter(finite)
    high = func.max(array([inside.value, step]), type_=ARRAY(Double)).filter(finite)
    odd = func.min(array([step, inside.value]), type_=ARRAY(Double)).filter(~finite)
    found = (low[2].cast(BigInteger), low[1], high[2].cast(BigInteger), high[1], odd[1].cast(BigInteger), odd[2])
    return select(*found).group_by(inside.stretch)


def _known() -> Iterator[Select[int | None, float | None]]:
    """What buckets know, as points."""
    level = (Bucket.run_id == _RUN, Bucket.name == _NAME, Bucket.width == bindparam("width"))
    inside = (Bucket.bucket >= bindparam("begin"), Bucket.bucket < bindparam("end"))
    pairs = ((Bucket.low_step, Bucket.low), (Bucket.high_step, Bucket.high), (Bucket.odd_step, Bucket.odd))
    for step, value in pairs:
        yield select(step.label("step"), value.label("value")).where(*level, *inside, step.is_not(None))


def _between(low: BindParameter[int], high: BindParameter[int]) -> Select[int, float]:
    return select(Point.step, Point.value).where(
        Point.run_id == _RUN, Point.name == _NAME, Point.step.between(low, high)
    )


_CALLED = select(Bucket.name).where(Bucket.run_id == _RUN, Bucket.width == WIDTHS[-1]).distinct()
"""The widest buckets, a handful even of a million points, know the names."""
_SPANS = _spans_of(_CALLED.subquery())
_SPANS_OF = _spans_of(_CALLED.where(Bucket.name.in_(bindparam("names", expanding=True))).subquery())
_POINTS = _between(_LOW, _HIGH).order_by(Point.step)
_EXTREMES = _extremes()
