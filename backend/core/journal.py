"""A run's journal in Postgres: stored exactly once, and rewound when a run goes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate, groupby
from operator import or_
from uuid import UUID

from sqlalchemy import ColumnElement, Select, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import array, insert
from sqlalchemy.orm import Session, aliased

from backend.core import curves, points, runs
from backend.core.assignment import Amendment, Line, LineKind
from backend.core.bulk import among, bytes_before
from backend.core.errors import Conflict
from backend.core.events import EventKind, emit, emit_all
from backend.core.ids import uuid7
from backend.core.models import (
    AmendmentRow,
    Artifact,
    Attempt,
    CheckpointRow,
    Point,
    Run,
    RunEvent,
    Sample,
    State,
)

PAGE_BYTES = 8 << 20
"""A page of what a run told ends at about this size, however few it then holds: an answer may be long."""
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


@dataclass(frozen=True)
class Samplings:
    """Answers, those of the newest step first. `next`: the step from which on, downwards, there are more; None where none are."""

    samples: list[Sample]
    next: int | None


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
    return Heard(run.intent, run.state, tuple(runs.pending(session, run.id)))


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
    for is_metrics, lines in groupby(batch.lines, lambda line: line.kind == LineKind.METRICS):
        if is_metrics:
            _store_metrics(session, run, list(lines), own)
            continue
        for line in lines:
            _store_line(session, run, line, origin, own)


def _store_metrics(session: Session, run: Run, lines: Sequence[Line], own: bool) -> None:
    """Lines that follow each other, at once: a long outage of Postgres leaves thousands."""
    lines = _untold(session, run, lines)
    if not lines:
        return
    measured: dict[str, list[points.Measured]] = {}
    for line in lines:
        step, at = line.step, line.t
        for name, value in line.data["values"].items():
            measured.setdefault(name, []).append((step, points.number(value), at))
    points.store(session, run.id, measured, beyond=run.step)
    run.step = max(run.step, *(line.step for line in lines))
    run.latest = reduce(or_, (line.data["values"] for line in lines), run.latest)
    run.progress = {} if own else run.progress  # what was told between two steps is over
    emit_all(session, run, EventKind.METRICS, [(line.step, line.data | {"t": line.t}) for line in lines])


def _untold(session: Session, run: Run, lines: Sequence[Line]) -> Sequence[Line]:
    """Without what was told before. A checkpoint may owe the measurement of its step; an attempt that makes up for it, and dies
    before it saves again, leaves it to the next one to measure that once more."""
    again = [line for line in lines if line.step <= run.step]
    if not again:
        return lines
    steps, names = {line.step for line in again}, {name for line in again for name in line.data["values"]}
    here = (Point.run_id == run.id, among(Point.name, names), among(Point.step, steps))
    query = select(Point.step, Point.name).where(*here)
    told = {(step, name) for step, name in session.execute(query)}
    return [line for line in lines if not all((line.step, name) in told for name in line.data["values"])]


def _store_line(session: Session, run: Run, line: Line, origin: Origin, own: bool) -> None:
    data = line.data
    match line.kind:
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
    other = Sample.prompt != statement.excluded.prompt  # an answer to the same prompt was told before
    placed = statement.on_conflict_do_update(index_elements=["run_id", "step", "index"], set_=values, where=other)
    if session.execute(placed.returning(Sample.index)).one_or_none() is not None:
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


# ---- going back ------------------------------------------------------------------------------------------------------


def rewind(session: Session, run: Run, step: int) -> None:
    """Take back everything after `step`: points, buckets, samples. Followers are told by a `rewound` event."""
    points.take_back(session, run.id, step)
    session.execute(delete(Sample).where(Sample.run_id == run.id, Sample.step > step))
    lost, run.step = max(0, run.step - step), step
    run.latest = curves.latest(session, run.id)
    emit(session, run, EventKind.REWOUND, {"step": step, "lost": lost}, step=step)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _page_of_events() -> Select[RunEvent]:
    """The query behind `events`. It is built once: that takes longer than a short page takes to read."""
    before = bytes_before(RunEvent.data, RunEvent.seq).label("before")
    behind = select(RunEvent, before).where(RunEvent.run_id == bindparam("run_id"), RunEvent.seq > bindparam("after"))
    page = behind.order_by(RunEvent.seq).limit(bindparam("limit")).subquery()
    return select(aliased(RunEvent, page)).where(page.c.before < bindparam("room")).order_by(page.c.seq)


PAGE_OF_EVENTS = _page_of_events()


def events(
    session: Session, run_id: UUID, after: int = 0, limit: int = 500, room_bytes: int = PAGE_BYTES
) -> list[RunEvent]:
    """The events with `seq > after`, in order: `limit`, or fewer where those fill `room_bytes`."""
    asked = {"run_id": run_id, "after": after, "limit": limit, "room": room_bytes}
    return list(session.scalars(PAGE_OF_EVENTS, asked))


def samples(
    session: Session,
    run_id: UUID,
    first: int = 0,
    last: int | None = None,
    limit: int = 50,
    room_bytes: int = PAGE_BYTES,
) -> Samplings:
    """The answers at the steps from `first` to `last`: those of the newest `limit` steps, or of fewer where those fill
    `room_bytes`."""
    within = [Sample.run_id == run_id, Sample.step >= first, *([] if last is None else [Sample.step <= last])]
    size = func.sum(func.octet_length(Sample.prompt) + func.octet_length(Sample.text))
    sizes = select(Sample.step, size).where(*within).group_by(Sample.step).order_by(Sample.step.desc()).limit(limit + 1)
    known = session.execute(sizes).all()
    before = accumulate((int(each) for _, each in known), initial=0)
    taken = [step for (step, _), sum_bytes in zip(known[:limit], before, strict=False) if sum_bytes < room_bytes]
    if not taken:
        return Samplings([], None)
    query = select(Sample).where(Sample.run_id == run_id, Sample.step.between(taken[-1], taken[0]))
    found = session.scalars(query.order_by(Sample.step.desc(), Sample.index))
    return Samplings(list(found), taken[-1] - 1 if len(taken) < len(known) else None)


def first_sampled(session: Session, run_id: UUID) -> int | None:
    """The step of the first answers."""
    return session.scalar(select(func.min(Sample.step)).where(Sample.run_id == run_id))


def _prompt_digest() -> ColumnElement[bytes]:
    return func.sha256(func.convert_to(Sample.prompt, "UTF8"))


def prompts(session: Session, run_id: UUID) -> dict[bytes, tuple[int, int]]:
    """The digests of the prompts that were answered, in the order in which they first were, each with the step and the index of
    that answer. The prompts themselves may be many MiB."""
    place = array([Sample.step, Sample.index]).label("place")
    asked = select(_prompt_digest().label("digest"), place).where(Sample.run_id == run_id).subquery()
    first = func.min(asked.c.place)
    found = session.execute(select(asked.c.digest, first).group_by(asked.c.digest).order_by(first))
    return {digest: (step, index) for digest, (step, index) in found}


def answered(session: Session, run_id: UUID, digest: bytes) -> dict[int, int]:
    """The steps at which a prompt was answered, each with the index of the answer."""
    query = select(Sample.step, func.max(Sample.index)).where(Sample.run_id == run_id, _prompt_digest() == digest)
    return {row[0]: row[1] for row in session.execute(query.group_by(Sample.step))}
