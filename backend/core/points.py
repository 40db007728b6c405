"""A run's metric values: every point as it was measured, and stretches that know their extremes, for charts.

What lies beyond the run's last stored step can collide with nothing, so it is copied in (`COPY`), an order of magnitude
faster than an insert that looks for conflicts. A run's points never lie beyond its own `step`: `journal.ship` moves
both in one transaction, and `take_back` cuts both.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import and_, case, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.core.bulk import copy, copy_packed
from backend.core.models import Bucket, Point

WIDTHS = (8, 64, 512, 4096, 32768)
"""Steps in a bucket, on each level. Each divides the next, so a level is made from the extremes of the one before."""
ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Pair = tuple[int, float]
"""A step and its value."""


Measured = tuple[int, float, float]
"""A step, its value, and when it was measured, in seconds since the epoch."""


class Extremes(NamedTuple):
    """Of one stretch of steps: the lowest and the highest value, and the first that is not finite, with their steps."""

    low: float | None
    low_step: int | None
    high: float | None
    high_step: int | None
    odd: float | None
    odd_step: int | None

    def pairs(self) -> list[Pair]:
        """In the order of steps, each once."""
        all_three = ((self.low_step, self.low), (self.high_step, self.high), (self.odd_step, self.odd))
        return sorted({step: value for step, value in all_three if step is not None and value is not None}.items())


POINT = ("run_id", "name", "step", "value", "at")
BUCKET = ("run_id", "name", "width", "bucket", *Extremes._fields)


def number(value: Any) -> float:
    """A metric's value: journals spell what JSON cannot as words."""
    return value if type(value) is float else ODD[value] if isinstance(value, str) else float(value)


def word(value: float) -> float | str:
    """The same, the other way round."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


# ---- storing ---------------------------------------------------------------------------------------------------------


def store(session: Session, run_id: UUID, measured: Mapping[str, Sequence[Measured]], *, beyond: int) -> None:
    """Store the values of each metric, and widen the buckets that they fall into. `beyond` is the last step that may have
    points already. Of one metric at one step the last value counts; its buckets keep every extreme that was ever told."""
    latest = {name: {each[0]: each for each in values}.values() for name, values in measured.items()}
    new: list[tuple[Any, ...]] = []
    old: list[tuple[Any, ...]] = []
    run = str(run_id)  # written once, not once a row

    def pieces() -> Iterator[bytes]:
        for name, values in measured.items():
            yield _packed(run_id, name, latest[name], beyond)
            # Postgres stores the curve meanwhile.
            for width, bucket, extremes in _levels(sorted([(step, value) for step, value, _at in values])):
                (new if bucket * width > beyond else old).append((run, name, width, bucket, *extremes))

    copy_packed(session, Point, POINT, pieces())
    copy(session, Bucket, BUCKET, new)
    known = [(run, name, *each) for name, values in latest.items() for each in values if each[0] <= beyond]
    _replace_points(session, known)
    _widen_buckets(session, old)


def _packed(run_id: UUID, name: str, values: Iterable[Measured], beyond: int) -> bytes:
    """A curve's new points as rows of `COPY`: the number of cells, then each cell's length and bytes, in network order."""
    word = name.encode()
    pack = struct.Struct(f"!h i16s i{len(word)}s iq id id").pack
    head = (len(POINT), 16, run_id.bytes, len(word), word)
    return b"".join([pack(*head, 8, step, 8, value, 8, at) for step, value, at in values if step > beyond])


def _levels(pairs: list[Pair]) -> Iterator[tuple[int, int, Extremes]]:
    """Width, bucket and extremes of every stretch that these pairs, sorted by step, fall into."""
    for width in WIDTHS:
        kept: list[Pair] = []
        for bucket, extremes in stretches(pairs, width):
            kept += extremes.pairs()
            yield width, bucket, extremes
        pairs = kept


def stretches(pairs: Iterable[Pair], width: int) -> Iterator[tuple[int, Extremes]]:
    """The extremes of each stretch of `width` steps that holds any of the pairs, which are sorted by step."""
    for bucket, inside in groupby(pairs, lambda pair: pair[0] // width):
        yield bucket, extremes_of(inside)


def extremes_of(inside: Iterable[Pair]) -> Extremes:
    pairs = list(inside)
    finite = [(value, step) for step, value in pairs if math.isfinite(value)]
    odd: tuple[float | None, int | None] = (None, None)
    if len(finite) < len(pairs):
        odd = next((value, step) for step, value in pairs if not math.isfinite(value))
    if not finite:
        return Extremes(None, None, None, None, *odd)
    return Extremes(*min(finite), *max(finite), *odd)


def _replace_points(session: Session, rows: list[tuple[Any, ...]]) -> None:
    if not rows:
        return
    statement = insert(Point)
    latest = {"value": statement.excluded.value, "at": statement.excluded.at}
    update = statement.on_conflict_do_update(index_elements=["run_id", "name", "step"], set_=latest)
    session.execute(update, _named(POINT, rows))


def _widen_buckets(session: Session, rows: list[tuple[Any, ...]]) -> None:
    """A bucket only ever gains."""
    if not rows:
        return
    new = insert(Bucket)
    old, add = Bucket.__table__.c, new.excluded
    lower = and_(add.low.is_not(None), (old.low.is_(None)) | (add.low < old.low))
    higher = and_(add.high.is_not(None), (old.high.is_(None)) | (add.high > old.high))
    widened = {
        "low": func.least(old.low, add.low),
        "low_step": case((lower, add.low_step), else_=old.low_step),
        "high": func.greatest(old.high, add.high),
        "high_step": case((higher, add.high_step), else_=old.high_step),
        "odd": func.coalesce(old.odd, add.odd),
        "odd_step": func.coalesce(old.odd_step, add.odd_step),
    }
    update = new.on_conflict_do_update(index_elements=["run_id", "name", "width", "bucket"], set_=widened)
    session.execute(update, _named(BUCKET, rows))


def _named(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in rows]


# ---- taking back -----------------------------------------------------------------------------------------------------


def take_back(session: Session, run_id: UUID, step: int) -> None:
    """Delete every point after `step`, and with it whatever it was an extreme of."""
    session.execute(delete(Point).where(Point.run_id == run_id, Point.step > step))
    session.execute(delete(Bucket).where(Bucket.run_id == run_id, (Bucket.bucket + 1) * Bucket.width > step))
    for width in WIDTHS:
        _rebuild_bucket(session, run_id, width, step // width)


def _rebuild_bucket(session: Session, run_id: UUID, width: int, bucket: int) -> None:
    """The one bucket of a level that `step` cut through."""
    first, last = bucket * width, (bucket + 1) * width - 1
    inside = (Point.run_id == run_id, Point.step.between(first, last))
    rows = session.execute(select(Point.name, Point.step, Point.value).where(*inside).order_by(Point.name, Point.step))
    made = [
        (str(run_id), name, width, bucket, *extremes_of((step, value) for _name, step, value in points))
        for name, points in groupby(rows, lambda row: row.name)
    ]
    copy(session, Bucket, BUCKET, made)
