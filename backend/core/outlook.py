"""How far a run is, how fast it goes and how it fares: what its page says in words beside the curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Float, Select, and_, cast, func, or_, select, true
from sqlalchemy.orm import Session

from backend.core.events import EventKind
from backend.core.models import (
    ACTIVE,
    WORKER_SILENCE,
    Attempt,
    Bucket,
    Device,
    Intent,
    Point,
    Run,
    RunEvent,
    State,
    Worker,
)
from backend.core.points import WIDTHS

PACE_STEPS = 100
"""The pace is that of so many newest steps: what has just changed shows, and a single slow step does not."""
ROUNDING = 1e-6
"""How far above a whole number a quotient of steps and passes may lie for want of digits."""


@dataclass(frozen=True)
class Best:
    """The lowest evaluation loss, and the training loss of that step."""

    step: int
    eval_loss: float
    loss: float | None


@dataclass(frozen=True)
class Queue:
    """Why a run waits: how many go before it, and whether anybody is there to take it."""

    before: int
    workers: int
    """Workers that are heard of and take runs."""
    busy: tuple[str, ...]
    """The runs that hold accelerators now."""


@dataclass(frozen=True)
class Outlook:
    """Everything is None until enough is known to say it honestly."""

    steps_a_pass: int | None = None
    busy_seconds: float = 0.0
    """How long workers have been at it; pauses and waits do not count."""
    step_seconds: float | None = None
    left_seconds: float | None = None
    best: Best | None = None
    worse_since_best: int = 0
    """Measurements in a row, the newest ones, that were worse than the best."""
    first_loss: float | None = None
    clipped_share: float | None = None
    peak_rate: float | None = None
    peak_memory_gib: float | None = None
    device: str = ""
    device_bytes: int | None = None
    queue: Queue | None = None

    @property
    def done_at(self) -> datetime | None:
        return None if self.left_seconds is None else datetime.now(UTC) + timedelta(seconds=self.left_seconds)


def outlook(session: Session, run: Run) -> Outlook:
    pace = step_seconds(session, [run]).get(run.id)
    title, size = _device(session, run)
    return Outlook(
        steps_a_pass=steps_a_pass(session, run.id),
        busy_seconds=_busy_seconds(session, run.id),
        step_seconds=pace,
        left_seconds=left_seconds(run, pace),
        best=(best := _best(session, run.id)),
        worse_since_best=_worse_since(session, run.id, best),
        first_loss=_first(session, run.id, "loss"),
        clipped_share=_share_above(session, run.id, "grad_norm", float(run.recipe["training"]["max_grad_norm"])),
        peak_rate=_peak(session, run.id, "learning_rate"),
        peak_memory_gib=_peak(session, run.id, "memory_gib"),
        device=title,
        device_bytes=size,
        queue=_queue(session, run) if run.state == State.QUEUED else None,
    )


def steps_a_pass(session: Session, run_id: UUID) -> int | None:
    """Steps of one pass over the data, as the newest metrics tell it; packing makes it unlike rows by batch."""
    epoch = cast(RunEvent.data["epoch"].astext, Float)
    where = (RunEvent.run_id == run_id, RunEvent.kind == EventKind.METRICS, epoch > 0)
    query = select(RunEvent.step, epoch).where(*where).order_by(RunEvent.seq.desc()).limit(1)
    found = session.execute(query).one_or_none()
    return whole_pass(*found) if found else None


def whole_pass(step: int, epoch: float) -> int:
    """Steps of one pass, after the trainer told that `step` steps were `epoch` passes.

    It counts passes by batches, and the last step of each takes only the batches that are left: within a pass the quotient
    lies up to 1 below.
    """
    return math.ceil(step / epoch - ROUNDING)


def _busy_seconds(session: Session, run_id: UUID) -> float:
    lasted = func.coalesce(Attempt.ended_at, func.clock_timestamp()) - Attempt.started_at
    query = select(func.sum(func.extract("epoch", lasted))).where(Attempt.run_id == run_id)
    return float(session.scalar(query) or 0.0)


def step_seconds(session: Session, runs: Sequence[Run]) -> dict[UUID, float]:
    """The pace of each run's newest steps, of its newest attempt alone: what lies between two attempts was a pause.

    Measuring, sampling and saving between two steps count: they will come again.
    """
    newest = (
        select(Point.step, Point.at)
        .where(Point.run_id == Attempt.run_id, Point.name == "loss", Point.step > Attempt.base_step)
        .order_by(Point.step.desc())
        .limit(PACE_STEPS)
        .lateral()
    )
    steps = func.max(newest.c.step) - func.min(newest.c.step)
    lasted = func.max(newest.c.at) - func.min(newest.c.at)
    query = (
        select(Run.id, lasted / steps)
        .join(Attempt, and_(Attempt.run_id == Run.id, Attempt.number == Run.attempt))
        .join(newest, true())
        .where(Run.id.in_([run.id for run in runs]))
        .group_by(Run.id)
        .having(steps > 0, lasted > 0)
    )
    return {run_id: float(pace) for run_id, pace in session.execute(query)}


def left_seconds(run: Run, pace: float | None) -> float | None:
    """How long the rest of the steps takes; None where they will not be made, for who told the run to end sooner."""
    if pace is None or run.state != State.TRAINING or run.intent != Intent.RUN or not run.total_steps:
        return None
    return pace * max(0, run.total_steps - run.step)


def _best(session: Session, run_id: UUID) -> Best | None:
    query = _points(run_id, "eval_loss", Point.step, Point.value).where(Point.value < math.inf)
    found = session.execute(query.order_by(Point.value, Point.step).limit(1)).one_or_none()
    if found is None:
        return None
    loss = session.scalar(_points(run_id, "loss", Point.value).where(Point.step == found[0]))
    return Best(found[0], found[1], loss)


def _worse_since(session: Session, run_id: UUID, best: Best | None) -> int:
    if best is None:
        return 0
    later = _points(run_id, "eval_loss", func.count()).where(Point.step > best.step, Point.value > best.eval_loss)
    return int(session.scalar(later) or 0)


def _first(session: Session, run_id: UUID, name: str) -> float | None:
    first: float | None = session.scalar(_points(run_id, name, Point.value).order_by(Point.step).limit(1))
    return first


def _share_above(session: Session, run_id: UUID, name: str, limit: float) -> float | None:
    """The share of steps whose value was above the limit. Clipping at 0 is none."""
    if not limit:
        return None
    above, every = session.execute(_points(run_id, name, func.count().filter(Point.value > limit), func.count())).one()
    return above / every if every else None


def _peak(session: Session, run_id: UUID, name: str) -> float | None:
    """From the widest buckets, of which a long run has few."""
    widest = (Bucket.run_id == run_id, Bucket.name == name, Bucket.width == WIDTHS[-1])
    return session.scalar(select(func.max(Bucket.high)).where(*widest))


def _points(run_id: UUID, name: str, *columns: Any) -> Select[Any]:
    return select(*columns).where(Point.run_id == run_id, Point.name == name)


def _device(session: Session, run: Run) -> tuple[str, int | None]:
    """The accelerator of the newest attempt: its title, and its memory."""
    query = (
        select(Device.title, Device.memory_bytes)
        .join(Attempt, and_(Attempt.worker == Device.worker, Attempt.device == Device.name))
        .where(Attempt.run_id == run.id)
        .order_by(Attempt.number.desc())
        .limit(1)
    )
    found = session.execute(query).one_or_none()
    return (found[0], found[1]) if found else (str(run.facts.get("device", "")), None)


def _queue(session: Session, run: Run) -> Queue:
    earlier = or_(Run.queued_at < run.queued_at, and_(Run.queued_at == run.queued_at, Run.id < run.id))
    before = session.scalar(select(func.count()).where(Run.state == State.QUEUED, earlier)) or 0
    heard = Worker.seen_at > datetime.now(UTC) - WORKER_SILENCE
    workers = session.scalar(select(func.count()).select_from(Worker).where(heard, Worker.drained_at.is_(None))) or 0
    busy = session.scalars(select(Run.name).where(Run.state.in_(ACTIVE)).order_by(Run.queued_at).limit(5))
    return Queue(before, workers, tuple(busy))
