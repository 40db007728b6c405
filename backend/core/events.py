"""The run's event log: what pages and programs are told, in order, numbered without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy.orm import Session

from backend.core.bulk import copy
from backend.core.models import Json, Run, RunEvent


class EventKind(StrEnum):
    """The kinds of events, with the keys of their data."""

    STATE = "state"  # state, intent, cause, attempt, worker
    PHASE = "phase"  # phase, text
    FACTS = "facts"  # facts that were merged into the run's
    METRICS = "metrics"  # values, epoch; t: when they were measured, in seconds since the epoch
    SAMPLE = "sample"  # index, prompt, text, tokens, finish
    CHECKPOINT = "checkpoint"  # bytes
    ARTIFACT = "artifact"  # id, kind, bytes, sha256, facts
    AMENDMENT = "amendment"  # sequence, field, value: asked for
    AMENDED = "amended"  # sequence: acknowledged; `step` is the first that it holds for
    PROGRESS = "progress"  # what, done, total
    LOG = "log"  # level, text
    NOTE = "note"  # text: what people write beside the run
    REWOUND = "rewound"  # everything after `step` is taken back: `lost` steps, often none


def emit(session: Session, run: Run, kind: EventKind, data: Json, *, step: int | None = None) -> None:
    """Append one event. The caller holds the run's row lock, under which the number is allotted."""
    run.seq += 1
    session.add(
        RunEvent(
            run_id=run.id,
            seq=run.seq,
            kind=kind,
            step=run.step if step is None else step,
            attempt=run.attempt,
            data=data,
        )
    )
    note_ring(session, run.id)


def emit_all(session: Session, run: Run, kind: EventKind, told: Sequence[tuple[int, Json]]) -> None:
    """The same for many events of one kind, each a step and its data."""
    run_id, word, before, attempt = str(run.id), kind.value, run.seq, run.attempt  # asked once, not once a row
    rows = [
        (run_id, before + at, word, step, attempt, to_json(data).decode())
        for at, (step, data) in enumerate(told, start=1)
    ]
    session.flush()  # what was told before keeps its place, should the copy fail
    copy(session, RunEvent, ("run_id", "seq", "kind", "step", "attempt", "data"), rows)
    run.seq += len(rows)
    note_ring(session, run.id)


def note_ring(session: Session, run_id: UUID) -> None:
    """Remember that followers of this run are to be told, once the transaction is committed."""
    session.info.setdefault("rings", set()).add(run_id)


def take_rings(session: Session) -> set[UUID]:
    """The runs with news in what was just committed; the edge rings their doorbells."""
    rings: set[UUID] = session.info.pop("rings", set())
    return rings
