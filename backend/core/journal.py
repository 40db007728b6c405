"""A run's journal in Postgres: stored exactly once, rewound when a run goes back, thinned for charts with every extreme kept."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import and_, case, delete, func, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.orm import Session

from backend.core import runs
from backend.core.assignment import Amendment, Line, LineKind
from backend.core.errors import Conflict
from backend.core.events import EventKind, emit
from backend.core.ids import uuid7
from backend.core.models import (
    AmendmentRow,
    Artifact,
    Attempt,
    Bucket,
    CheckpointRow,
    Json,
    Point,
    Run,
    RunEvent,
    Sample,
    State,
)

WIDTHS = (8, 64, 512, 4096, 32768)
"""Steps in a bucket, on each level."""
ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
PHASES = {
    "loading": runs.enter_preparing,
    "preparing": runs.enter_preparing,
    "training": runs.enter_training,
    "saving": runs.enter_finishing,
    "exporting": runs.enter_finishing,
}


class OffsetMoved(Conflict):
    """The stored offset is not where this batch starts: it was stored before, and only the answer was lost."""

    code = "offset"

    def __init__(self, stored: int) -> None:
        super().__init__(f"The journal is stored up to byte {stored}.")
        self.stored = stored


@dataclass(frozen=True)
class Batch:
    """Complete lines of one attempt's journal, and the bytes [start, end) that they fill."""

    attempt: int
    start: int
    end: int
    lines: Sequence[Line]


@dataclass(frozen=True)
class Origin:
    """Who ships: the worker's storage, and the attempt's folder relative to the home."""

    place: str
    folder: str


@dataclass(frozen=True)
class Heard:
    """What the run's row says to its holder."""

    intent: str
    state: str
    pending: tuple[Amendment, ...] = field(default=())


# ---- shipping --------------------------------------------------------------------------------------------------------


def offset(session: Session, run_id: UUID, attempt: int) -> int:
    """How many bytes of the attempt's journal are stored."""
    row = session.get(Attempt, (run_id, attempt), populate_existing=True)
    return row.journal_offset if row else 0


def ship(session: Session, token: runs.Token, batch: Batch, origin: Origin, lease_seconds: float) -> Heard:
    """Store one batch, advance the offset that it starts from, extend the lease and hear what is wanted: one transaction.

    A batch of an older attempt (the one that owned the history before) brings metrics, samples and facts, but moves
    no state and publishes nothing. Raises `Fenced` and `OffsetMoved`, having changed nothing.
    """
    run = runs.hold(session, token)
    _advance(session, run, batch)
    _store(session, run, batch, origin)
    runs.extend(session, run, lease_seconds)
    return hear(session, run)


def hear(session: Session, run: Run) -> Heard:
    pending = tuple(each for each in runs.amendments(session, run.id) if each.step is None)
    return Heard(run.intent, run.state, pending)


def _advance(session: Session, run: Run, batch: Batch) -> None:
    """Compare and set: a lost answer to a commit cannot store a batch twice."""
    at_start = (
        Attempt.run_id == run.id,
        Attempt.number == batch.attempt,
        Attempt.closed_at.is_(None),
        Attempt.journal_offset == batch.start,
    )
    moved = session.execute(update(Attempt).where(*at_start).values(journal_offset=batch.end).returning(Attempt.number))
    if moved.one_or_none() is None:
        raise OffsetMoved(offset(session, run.id, batch.attempt))


def _store(session: Session, run: Run, batch: Batch, origin: Origin) -> None:
    own = batch.attempt == run.attempt
    metrics = [line for line in batch.lines if line.kind == LineKind.METRICS]
    for line in batch.lines:
        _store_line(session, run, line, origin, own)
    _store_points(session, run, metrics)


def _store_line(session: Session, run: Run, line: Line, origin: Origin, own: bool) -> None:
    data = line.data
    match line.kind:
        case LineKind.METRICS:
            run.step = max(run.step, line.step)
            run.latest = run.latest | data["values"]
            run.progress = {} if own else run.progress  # what was told between two steps is over
            emit(session, run, EventKind.METRICS, data | {"t": line.t}, step=line.step)
        case LineKind.SAMPLE:
            _store_sample(session, run, line)
        case LineKind.FACTS:
            run.facts = run.facts | data
            run.total_steps = data.get("total_steps", run.total_steps)
            emit(session, run, EventKind.FACTS, data, step=line.step)
        case LineKind.AMENDED:
            _acknowledge(session, run, line)
        case LineKind.LOG:
            emit(session, run, EventKind.LOG, data, step=line.step)
        case LineKind.PHASE if own:
            _enter_phase(session, run, line)
        case LineKind.PROGRESS if own:
            run.progress = data
            emit(session, run, EventKind.PROGRESS, data, step=line.step)
        case LineKind.CHECKPOINT if own:
            _publish_checkpoint(session, run, line, origin)
        case LineKind.ARTIFACT if own:
            _publish_artifact(session, run, line, origin)
        case _:
            pass  # an `end` line is the supervisor's to read; the rest of an older attempt is history


def _enter_phase(session: Session, run: Run, line: Line) -> None:
    enter = PHASES[line.data["phase"]]
    wanted = {runs.enter_preparing: State.PREPARING, runs.enter_training: State.TRAINING}.get(enter, State.FINISHING)
    if run.state != wanted:
        enter(session, run)
    run.progress = {}  # that of the phase before
    emit(session, run, EventKind.PHASE, line.data, step=line.step)


def _store_sample(session: Session, run: Run, line: Line) -> None:
    values = {key: line.data[key] for key in ("prompt", "text", "finish", "tokens")}
    key = {"run_id": run.id, "step": line.step, "index": line.data["index"]}
    statement = insert(Sample).values(**key, **values)
    session.execute(statement.on_conflict_do_update(index_elements=["run_id", "step", "index"], set_=values))
    emit(session, run, EventKind.SAMPLE, line.data, step=line.step)


def _acknowledge(session: Session, run: Run, line: Line) -> None:
    row = (AmendmentRow.run_id == run.id, AmendmentRow.sequence == line.data["sequence"], AmendmentRow.step.is_(None))
    session.execute(update(AmendmentRow).where(*row).values(step=line.step))
    emit(session, run, EventKind.AMENDED, line.data, step=line.step)


def _publish_checkpoint(session: Session, run: Run, line: Line, origin: Origin) -> None:
    row = CheckpointRow(
        run_id=run.id,
        attempt=run.attempt,
        step=line.step,
        folder=f"{origin.folder}/{line.data['folder']}",
        manifest_sha256=line.data["manifest_sha256"],
        bytes=line.data["bytes"],
    )
    runs.publish_checkpoint(session, run, row, place=origin.place)


def _publish_artifact(session: Session, run: Run, line: Line, origin: Origin) -> None:
    made = line.data
    standing = (Artifact.run_id == run.id, Artifact.kind == made["kind"], Artifact.withdrawn_at.is_(None))
    session.execute(update(Artifact).where(*standing).values(withdrawn_at=func.clock_timestamp()))
    row = Artifact(
        id=uuid7(),
        run_id=run.id,
        attempt=run.attempt,
        step=line.step,
        kind=made["kind"],
        folder=f"{origin.folder}/{made['folder']}",
        bytes=made["bytes"],
        sha256=made["sha256"],
        files=made["files"],
        facts=made.get("facts", {}),
    )
    session.add(row)
    told = {key: getattr(row, key) for key in ("kind", "bytes", "sha256", "facts")} | {"id": str(row.id)}
    emit(session, run, EventKind.ARTIFACT, told, step=line.step)


# ---- points and buckets ----------------------------------------------------------------------------------------------


def number(value: Any) -> float:
    """A metric's value: journals spell what JSON cannot as words."""
    return ODD[value] if isinstance(value, str) else float(value)


def word(value: float) -> float | str:
    """The same, the other way round."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _store_points(session: Session, run: Run, lines: Sequence[Line]) -> None:
    points = [
        {"run_id": run.id, "name": name, "step": line.step, "value": number(value), "at": line.t}
        for line in lines
        for name, value in line.data["values"].items()
    ]
    if not points:
        return
    statement = insert(Point)
    latest = {"value": statement.excluded.value, "at": statement.excluded.at}
    session.execute(statement.on_conflict_do_update(index_elements=["run_id", "name", "step"], set_=latest), points)
    _store_buckets(session, run.id, [(p["name"], p["step"], p["value"]) for p in points])


def _store_buckets(session: Session, run_id: UUID, points: Iterable[tuple[str, int, float]]) -> None:
    """Widen the buckets that these points fall into; a bucket only ever gains."""
    rows = [_bucket(run_id, key, inside) for key, inside in _grouped(points).items()]
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
    session.execute(new.on_conflict_do_update(index_elements=["run_id", "name", "width", "bucket"], set_=widened), rows)


def _grouped(points: Iterable[tuple[str, int, float]]) -> Mapping[tuple[str, int, int], list[tuple[int, float]]]:
    groups: dict[tuple[str, int, int], list[tuple[int, float]]] = defaultdict(list)
    for name, step, value in points:
        for width in WIDTHS:
            groups[name, width, step // width].append((step, value))
    return groups


def _bucket(run_id: UUID, key: tuple[str, int, int], inside: list[tuple[int, float]]) -> Json:
    name, width, bucket = key
    finite = [(value, step) for step, value in inside if math.isfinite(value)]
    odd = next(((value, step) for step, value in inside if not math.isfinite(value)), (None, None))
    low, high = (min(finite), max(finite)) if finite else ((None, None), (None, None))
    return {
        "run_id": run_id,
        "name": name,
        "width": width,
        "bucket": bucket,
        "low": low[0],
        "low_step": low[1],
        "high": high[0],
        "high_step": high[1],
        "odd": odd[0],
        "odd_step": odd[1],
    }


# ---- going back ------------------------------------------------------------------------------------------------------


def rewind(session: Session, run: Run, step: int) -> None:
    """Take back everything after `step`: points, buckets, samples. Followers are told by a `rewound` event."""
    session.execute(delete(Point).where(Point.run_id == run.id, Point.step > step))
    session.execute(delete(Sample).where(Sample.run_id == run.id, Sample.step > step))
    session.execute(delete(Bucket).where(Bucket.run_id == run.id, (Bucket.bucket + 1) * Bucket.width > step))
    for width in WIDTHS:
        _rebuild_bucket(session, run.id, width, step // width)
    lost, run.step = max(0, run.step - step), step
    run.latest = _latest(session, run.id)
    emit(session, run, EventKind.REWOUND, {"step": step, "lost": lost}, step=step)


def _rebuild_bucket(session: Session, run_id: UUID, width: int, bucket: int) -> None:
    """The one bucket of a level that `step` cut through."""
    first, last = bucket * width, (bucket + 1) * width - 1
    inside = (Point.run_id == run_id, Point.step.between(first, last))
    rows = session.execute(select(Point.name, Point.step, Point.value).where(*inside).order_by(Point.step))
    groups = _grouped((name, step, value) for name, step, value in rows)
    made = [_bucket(run_id, key, points) for key, points in groups.items() if key[1] == width]
    if made:
        session.execute(insert(Bucket), made)


def _latest(session: Session, run_id: UUID) -> Json:
    newest = select(Point.name, Point.value).where(Point.run_id == run_id).ext(distinct_on(Point.name))
    rows = session.execute(newest.order_by(Point.name, Point.step.desc()))
    return {name: word(value) for name, value in rows}


# ---- reading ---------------------------------------------------------------------------------------------------------


def events(session: Session, run_id: UUID, after: int = 0, limit: int = 500) -> list[RunEvent]:
    """The events with `seq > after`, in order."""
    query = select(RunEvent).where(RunEvent.run_id == run_id, RunEvent.seq > after).order_by(RunEvent.seq).limit(limit)
    return list(session.execute(query).scalars())


def samples(session: Session, run_id: UUID) -> list[Sample]:
    query = select(Sample).where(Sample.run_id == run_id).order_by(Sample.step, Sample.index)
    return list(session.execute(query).scalars())


Curve = list[tuple[int, float | str]]


def curves(
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
    span = select(Point.name, func.min(Point.step), func.max(Point.step), func.count()).where(Point.run_id == run_id)
    span = span.where(Point.name.in_(names)) if names else span
    span = span.where(Point.step >= first) if first is not None else span
    span = span.where(Point.step <= last) if last is not None else span
    found = session.execute(span.group_by(Point.name).order_by(Point.name)).all()
    return {
        name: _all(session, run_id, name, low, high)
        if count <= points
        else _thin(session, run_id, name, low, high, points)
        for name, low, high, count in found
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


def _all(session: Session, run_id: UUID, name: str, low: int, high: int) -> Curve:
    inside = (Point.run_id == run_id, Point.name == name, Point.step.between(low, high))
    rows = session.execute(select(Point.step, Point.value).where(*inside).order_by(Point.step))
    return [(step, word(value)) for step, value in rows]


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


def _points(session: Session, run_id: UUID, name: str, low: int, high: int) -> list[tuple[int, float]]:
    inside = (Point.run_id == run_id, Point.name == name, Point.step.between(low, high))
    return [
        (step, value)
        for step, value in session.execute(select(Point.step, Point.value).where(*inside).order_by(Point.step))
    ]


def _buckets(session: Session, run_id: UUID, name: str, width: int, first: int, last: int) -> list[tuple[int, float]]:
    columns = (Bucket.low_step, Bucket.low, Bucket.high_step, Bucket.high, Bucket.odd_step, Bucket.odd)
    level = (
        Bucket.run_id == run_id,
        Bucket.name == name,
        Bucket.width == width,
        Bucket.bucket >= first,
        Bucket.bucket < last,
    )
    found: dict[int, float] = {}
    for low_step, low, high_step, high, odd_step, odd in session.execute(select(*columns).where(*level)):
        pairs = ((low_step, low), (high_step, high), (odd_step, odd))
        found |= {step: value for step, value in pairs if step is not None and value is not None}
    return sorted(found.items())


def _extremes(rows: list[tuple[int, float]], stretch: int) -> Curve:
    groups: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for step, value in rows:
        groups[step // stretch].append((step, value))
    kept: list[tuple[int, float]] = []
    for _, inside in sorted(groups.items()):
        finite = [(value, step) for step, value in inside if math.isfinite(value)]
        chosen = {(step, value) for value, step in ((min(finite), max(finite)) if finite else ())}
        odd = [pair for pair in inside if not math.isfinite(pair[1])][:1]
        kept += sorted(chosen, key=lambda pair: pair[0]) + odd
    return [(step, word(value)) for step, value in sorted(kept, key=lambda pair: pair[0])]
