"""The life of a run: who may write what of it, and when.

The rules are those of the design's second section, checked by exhaustive exploration of a model of them
(`docs/decisions/postgres-owns-runs.md`). Every function works inside the caller's transaction and under the run's
row lock; only the edge commits. Each state has one entry function here, and nothing else writes `state`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Text, and_, cast, exists, func, or_, select, tuple_, update
from sqlalchemy.orm import Session

from backend.core.assignment import Amendment, Outcome
from backend.core.errors import Conflict, Fenced, Invalid, NotFound, Problem
from backend.core.events import EventKind, emit
from backend.core.ids import as_uuid
from backend.core.models import (
    ACTIVE,
    AmendmentRow,
    Artifact,
    Attempt,
    CheckpointRow,
    Intent,
    Json,
    Outbox,
    Run,
    RunEvent,
    State,
    Worker,
)
from backend.core.people import audit
from backend.core.recipe import Recipe, read_recipe


@dataclass(frozen=True)
class Token:
    """A claimed attempt: the right to write, as long as it is the run's current one."""

    run_id: UUID
    attempt: int


@dataclass(frozen=True)
class Lease:
    """A lease as a claimant saw it."""

    run_id: UUID
    attempt: int
    until: datetime


@dataclass(frozen=True)
class Limits:
    """How much patience a run gets."""

    crash_limit: int = 3
    attempt_limit: int = 10


# ---- finding and locking ---------------------------------------------------------------------------------------------


def find(session: Session, name_or_id: str | UUID) -> Run:
    """A run by name or id. Raises `NotFound`."""
    run_id = name_or_id if isinstance(name_or_id, UUID) else as_uuid(name_or_id)
    where = Run.id == run_id if run_id else Run.name == str(name_or_id)
    if run := session.execute(select(Run).where(where)).scalar_one_or_none():
        return run
    raise NotFound(f"There is no run “{name_or_id}”.", hint="Look it up in the list of runs.")


def lock(session: Session, run_id: UUID) -> Run:
    """The run, fresh and under its row lock. Raises `NotFound`."""
    query = select(Run).where(Run.id == run_id).with_for_update().execution_options(populate_existing=True)
    if run := session.execute(query).scalar_one_or_none():
        return run
    raise NotFound("There is no such run.")


def hold(session: Session, token: Token) -> Run:
    """The fence: the run under its row lock, if the attempt is current and its lease was not given up. Else `Fenced`."""
    query = (
        select(Run)
        .where(Run.id == token.run_id, Run.attempt == token.attempt, Run.lease_until.is_not(None))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if run := session.execute(query).scalar_one_or_none():
        return run
    raise Fenced(f"Attempt {token.attempt} is no longer the run's current one.")


# ---- the entries into each state -------------------------------------------------------------------------------------


def enter_queued(session: Session, run: Run) -> None:
    run.queued_at, run.cause, run.ended_at = _now(session), None, None
    _enter(session, run, State.QUEUED)
    session.add(Outbox(hint="run", subject=str(run.id)))


def enter_preparing(session: Session, run: Run) -> None:
    _enter(session, run, State.PREPARING)


def enter_training(session: Session, run: Run) -> None:
    run.started_at = run.started_at or _now(session)
    _enter(session, run, State.TRAINING)


def enter_finishing(session: Session, run: Run) -> None:
    _enter(session, run, State.FINISHING)


def enter_paused(session: Session, run: Run, cause: Problem | None = None) -> None:
    run.intent = Intent.PAUSE
    run.cause = cause.as_json() if cause else None
    _enter(session, run, State.PAUSED)


def enter_stopped(session: Session, run: Run) -> None:
    run.ended_at = _now(session)
    if run.intent == Intent.STOP:
        run.discarded_at = run.ended_at
        withdraw_artifacts(session, run)
    _enter(session, run, State.STOPPED)


def enter_failed(session: Session, run: Run, cause: Problem) -> None:
    run.cause, run.ended_at = cause.as_json(), _now(session)
    _enter(session, run, State.FAILED)


def enter_succeeded(session: Session, run: Run) -> None:
    run.ended_at = _now(session)
    _enter(session, run, State.SUCCEEDED)


def _enter(session: Session, run: Run, state: State) -> None:
    """Write the state and tell it. Leaving the active states gives the attempt up, for whatever reason it happens."""
    if state not in ACTIVE and run.lease_until is not None:
        _close_attempt(session, run, state)
        run.lease_until = run.holder = None
    if state not in ACTIVE:
        run.progress = {}
    run.state = state
    data = {"state": state, "intent": run.intent, "attempt": run.attempt, "worker": run.holder, "cause": run.cause}
    emit(session, run, EventKind.STATE, data)


def _close_attempt(session: Session, run: Run, cause: str) -> None:
    session.execute(
        update(Attempt)
        .where(Attempt.run_id == run.id, Attempt.number == run.attempt, Attempt.ended_at.is_(None))
        .values(ended_at=func.clock_timestamp(), cause=cause)
    )


def settle(session: Session, run: Run, limits: Limits) -> State:
    """Nobody holds the run any more: enter what the person's last word asks for."""
    match Intent(run.intent):
        case Intent.PAUSE:
            enter_paused(session, run)
        case Intent.STOP:
            enter_stopped(session, run)
        case Intent.RUN | Intent.KEEP if run.tries >= limits.attempt_limit:
            message = f"It was tried {run.tries} times without getting any further."
            enter_paused(session, run, Problem("no_progress", message, hint="Look at the log, then resume."))
        case Intent.RUN | Intent.KEEP:
            enter_queued(session, run)
        case never:
            assert_never(never)
    return State(run.state)


# ---- what people do --------------------------------------------------------------------------------------------------

PENDING, CHANGES, CHANGE_BYTES = 50, 500, 8 << 20
"""So many changes in mid-run may wait for a trainer: its supervisor, which renews other runs' leases too, reads them each turn.
So many a run takes in all, and no more once their values fill so much: each trainer, and whoever looks at it, is told all."""


def create(
    session: Session,
    *,
    recipe: Recipe,
    model: Json,
    data: list[Json],
    place: str | None = None,
    owner_id: UUID | None = None,
    parent_id: UUID | None = None,
    recipe_version_id: UUID | None = None,
    notes: Sequence[Problem] = (),
    facts: Json | None = None,
) -> Run:
    """A new run in the queue, and the hint that says so, in one transaction."""
    run = Run(
        name=free_name(session, recipe.name or f"{model['path'].split('/')[-1]} {recipe.method.kind}"),
        recipe=recipe.model_dump(mode="json"),
        model=model,
        data=data,
        place=place,
        owner_id=owner_id,
        parent_id=parent_id,
        recipe_version_id=recipe_version_id,
        notes=[note.as_json() for note in notes],
        facts=facts or {},
        state=State.QUEUED,
        intent=Intent.RUN,
        attempt=0,
        seq=0,
        step=0,
    )
    session.add(run)
    session.flush()
    enter_queued(session, run)
    return run


def free_name(session: Session, wanted: str) -> str:
    """`wanted`, or `wanted 2`, `wanted 3` … where it is taken. Launches wait for each other here until they commit."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtext("names of runs"))))
    stem = wanted[:74]  # with its number a name is no longer than names may be
    taken = set(session.execute(select(Run.name).where(Run.name.startswith(stem, autoescape=True))).scalars())
    numbered = (f"{stem} {number}" for number in range(2, len(taken) + 3))
    return wanted if wanted not in taken else next(name for name in numbered if name not in taken)


def pause(session: Session, run_id: UUID, by: UUID | None = None) -> Run:
    """Save, exit, free the accelerator. A run that nobody holds is paused at once."""
    run = lock(session, run_id)
    if run.state not in (State.QUEUED, *ACTIVE) or run.intent != Intent.RUN:
        raise _cannot(run, "be paused")
    audit(session, by, "run.pause", run.name)
    run.intent = Intent.PAUSE
    if run.state == State.QUEUED:
        enter_paused(session, run)
    else:
        _tell_intent(session, run)
    return run


def resume(session: Session, run_id: UUID, by: UUID | None = None) -> Run:
    """Go on from the newest valid checkpoint, or from the start where there is none."""
    run = lock(session, run_id)
    if run.discarded_at:
        raise _cannot(run, "be resumed", hint="It was discarded: bring it back first.")
    going = run.state in ACTIVE and run.intent == Intent.PAUSE
    if not going and run.state not in (State.PAUSED, State.FAILED, State.STOPPED):
        raise _cannot(run, "be resumed")
    audit(session, by, "run.resume", run.name)
    run.intent, run.crashes, run.tries = Intent.RUN, 0, 0
    withdraw_artifacts(session, run)
    if going:
        _tell_intent(session, run)
    else:
        enter_queued(session, run)
    return run


def stop(session: Session, run_id: UUID, *, keep: bool, by: UUID | None = None) -> Run:
    """Stop for good. `keep` exports what was learned so far; else the run is discarded, which can be undone for a day."""
    run = lock(session, run_id)
    if run.state not in (State.QUEUED, State.PAUSED, *ACTIVE) or (keep and run.intent == Intent.STOP):
        raise _cannot(run, "be stopped")
    run.intent = Intent.KEEP if keep else Intent.STOP
    audit(session, by, "run.stop" if keep else "run.discard", run.name)
    if run.state in ACTIVE:
        _tell_intent(session, run)
    elif not keep or not newest_checkpoint(session, run.id):
        enter_stopped(session, run)
    elif run.state == State.PAUSED:
        enter_queued(session, run)  # an export needs a worker
    else:
        _tell_intent(session, run)
    return run


def restore(session: Session, run_id: UUID, hours: int, by: UUID | None = None) -> Run:
    """Undo a discard, as long as its files are there: back into the queue where it stood there, else paused."""
    run = lock(session, run_id)
    if not run.discarded_at or run.facts.get("purged"):
        raise _cannot(run, "be brought back")
    if run.discarded_at < _now(session) - timedelta(hours=hours):
        raise _cannot(run, "be brought back", hint=f"That is possible for {hours} hours.")
    run.discarded_at = None
    audit(session, by, "run.restore", run.name)
    if _was_queued(session, run):
        run.intent = Intent.RUN
        enter_queued(session, run)
    else:
        enter_paused(session, run)
    return run


def _was_queued(session: Session, run: Run) -> bool:
    """Whether the run stood in the queue when it was discarded: what was told last, before its end."""
    told = (RunEvent.run_id == run.id, RunEvent.kind == EventKind.STATE)
    states = select(RunEvent.data).where(*told).order_by(RunEvent.seq.desc()).offset(1).limit(1)
    before = session.execute(states).scalar_one_or_none() or {}
    return (before.get("state"), before.get("intent")) == (State.QUEUED, Intent.RUN)


def start_over(session: Session, run_id: UUID, by: UUID | None = None) -> Run:
    """A person's word that a run may leave the host that holds its checkpoints, and begin again elsewhere."""
    run = lock(session, run_id)
    waits = run.state == State.QUEUED or (run.lease_until is not None and run.lease_until < _now(session))
    if not waits or run.intent != Intent.RUN:
        raise _cannot(run, "start over", hint="That is for runs that wait for a host which is gone.")
    audit(session, by, "run.start_over", run.name)
    replace_checkpoints(session, run, after=-1)
    run.place, run.crashes, run.tries = None, 0, 0
    enter_queued(session, run)
    return run


def amend(session: Session, run_id: UUID, field: str, value: JsonValue, by: UUID | None) -> AmendmentRow:
    """Ask for a change in mid-run; the trainer says from which step on it holds."""
    run = lock(session, run_id)
    if run.state not in (State.QUEUED, State.PAUSED, *ACTIVE) or run.intent in (Intent.STOP, Intent.KEEP):
        raise _cannot(run, "be changed")
    check_amendment(run, field, value)
    row = AmendmentRow(run_id=run.id, sequence=_next_change(session, run), field=field, value=value, created_by=by)
    session.add(row)
    audit(session, by, "run.amend", run.name, field=field)
    data = {"sequence": row.sequence, "field": field, "value": value}
    emit(session, run, EventKind.AMENDMENT, data)
    return row


def _next_change(session: Session, run: Run) -> int:
    """The number of the run's next change. Raises `Conflict` where it takes none."""
    asked = (
        func.count(),
        func.count().filter(AmendmentRow.step.is_(None)),
        func.coalesce(func.max(AmendmentRow.sequence), 0),
        func.coalesce(func.sum(func.octet_length(cast(AmendmentRow.value, Text))), 0),
    )
    count, waiting, newest, size = session.execute(select(*asked).where(AmendmentRow.run_id == run.id)).one()
    if waiting >= PENDING:
        words = f"{PENDING} changes of “{run.name}” do not hold yet."
        raise Conflict(words, hint="They will from its next step on: wait for that.", code="changes.pending")
    if count >= CHANGES or size >= CHANGE_BYTES:
        words = f"“{run.name}” was changed {CHANGES} times, and takes no more changes."
        if count < CHANGES:
            words = f"The changes of “{run.name}” fill {CHANGE_BYTES >> 20} MiB, and it takes no more."
        raise Conflict(words, hint="Clone it: the clone begins with what it has become.", code="changes.many")
    return int(newest) + 1


NOTE_LENGTH = 2000


def write_note(session: Session, run_id: UUID, text: str, by: UUID | None = None) -> Run:
    """Write beside a run what people should know of it; whoever looks at it sees it at once."""
    text = text.replace("\r\n", "\n").strip()
    if len(text) > NOTE_LENGTH:
        raise Invalid(f"A note has at most {NOTE_LENGTH:,} characters.", where="note", hint="Shorten it.")
    run = lock(session, run_id)
    if text != run.note:
        run.note = text
        audit(session, by, "run.note", run.name)
        emit(session, run, EventKind.NOTE, {"text": text})
    return run


def check_amendment(run: Run, field: str, value: JsonValue) -> None:
    """The change must leave a valid recipe, and be a value that a trainer can go by at once. Raises `Invalid`."""
    known: tuple[str, ...] = Amendment.model_fields["field"].annotation.__args__  # type: ignore[union-attr]
    if field not in known:
        raise Invalid(f"{field} cannot be changed in mid-run.", where=field, hint=f"These can: {', '.join(known)}.")
    if value in ("auto", -1):
        raise Invalid("A change in mid-run needs a number.", where=field)
    group, name = field.split(".")
    read_recipe(run.recipe | {group: run.recipe[group] | {name: value}})


def _tell_intent(session: Session, run: Run) -> None:
    """Tell followers, and hint to a supervisor to look at once instead of at its next renewal."""
    data = {"state": run.state, "intent": run.intent, "attempt": run.attempt, "worker": run.holder, "cause": None}
    emit(session, run, EventKind.STATE, data)
    session.add(Outbox(hint="intent", subject=str(run.id)))


def _cannot(run: Run, what: str, hint: str = "") -> Conflict:
    doing = (
        f"{run.state}, and was told to {run.intent}" if run.state in ACTIVE and run.intent != Intent.RUN else run.state
    )
    return Conflict(f"“{run.name}” cannot {what}: it is {doing}.", hint=hint, code="wrong_state")


def _now(session: Session) -> datetime:
    """By Postgres' clock, the one that all share: the worker that writes it may be an hour off."""
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now


# ---- claims and leases -----------------------------------------------------------------------------------------------


def claim(
    session: Session,
    *,
    worker: str,
    device: str,
    place: str,
    lease_seconds: float,
    limits: Limits,
    expired: Iterable[Lease] = (),
    run_id: UUID | None = None,
) -> Token | None:
    """Take the oldest run that may be taken: one statement. `expired` are leases that this claimant watched, unchanged,
    for one whole lease; each is taken only if it still is as it was seen. A worker that is drained takes none.
    """
    free = and_(Run.state == State.QUEUED, Run.lease_until.is_(None))
    watched = [(each.run_id, each.attempt, each.until) for each in expired]
    open_to_all = or_(free, tuple_(Run.id, Run.attempt, Run.lease_until).in_(watched)) if watched else free
    chosen = (
        select(Run.id)
        .where(open_to_all, Run.intent.in_((Intent.RUN, Intent.KEEP)), Run.tries < limits.attempt_limit)
        .where(or_(Run.place.is_(None), Run.place == place))
        .where(~exists().where(Worker.name == worker, Worker.drained_at.is_not(None)))
        .order_by(Run.queued_at, Run.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    chosen = chosen.where(Run.id == run_id) if run_id else chosen
    statement = (
        update(Run)
        .where(Run.id == chosen.scalar_subquery())
        .values(
            attempt=Run.attempt + 1,
            tries=Run.tries + 1,
            holder=worker,
            lease_until=_lease_end(lease_seconds),
            state=State.PREPARING,
        )
        .returning(Run.id, Run.attempt)
        .execution_options(synchronize_session=False)
    )
    taken = session.execute(statement).one_or_none()
    if taken is None:
        return None
    token = Token(*taken)
    _open_attempt(session, token, worker, device)
    return token


def _open_attempt(session: Session, token: Token, worker: str, device: str) -> None:
    lost = (Attempt.run_id == token.run_id, Attempt.number < token.attempt, Attempt.ended_at.is_(None))
    session.execute(update(Attempt).where(*lost).values(ended_at=func.clock_timestamp(), cause="lost"))
    session.add(Attempt(run_id=token.run_id, number=token.attempt, worker=worker, device=device))
    enter_preparing(session, hold(session, token))


def _lease_end(seconds: float) -> Any:
    return func.clock_timestamp() + timedelta(seconds=seconds)


def renew(session: Session, token: Token, lease_seconds: float) -> Run:
    """Extend the lease. It asks whether the attempt is current, not the time: a lease that ran out unclaimed revives."""
    run = hold(session, token)
    extend(session, run, lease_seconds)
    return run


def extend(session: Session, run: Run, lease_seconds: float) -> None:
    """Extend the lease of a run that is held in this transaction."""
    statement = (
        update(Run).where(Run.id == run.id).values(lease_until=_lease_end(lease_seconds)).returning(Run.lease_until)
    )
    run.lease_until = session.execute(statement.execution_options(synchronize_session=False)).scalar_one()


def leases(session: Session) -> list[Lease]:
    """Every lease that is held now, for a claimant to watch."""
    rows = session.execute(select(Run.id, Run.attempt, Run.lease_until).where(Run.lease_until.is_not(None)))
    return [Lease(run_id, attempt, until) for run_id, attempt, until in rows if until]


def end_unheld(session: Session, expired: Iterable[Lease], limits: Limits) -> list[UUID]:
    """Any supervisor, busy or not, ends what nobody holds: as the person's word says, or for lack of progress."""
    watched = [(each.run_id, each.attempt, each.until) for each in expired]
    gone = tuple_(Run.id, Run.attempt, Run.lease_until).in_(watched) if watched else Run.id.is_(None)
    told = or_(Run.intent.in_((Intent.PAUSE, Intent.STOP)), Run.tries >= limits.attempt_limit)
    query = select(Run).where(or_(Run.state == State.QUEUED, gone), told).with_for_update(skip_locked=True)
    ended = list(session.execute(query.execution_options(populate_existing=True)).scalars())
    for run in ended:
        settle(session, run, limits)
    return [run.id for run in ended]


def free_own(session: Session, worker: str, limits: Limits, *, device: str | None = None) -> list[UUID]:
    """A host gives up what it holds, at work on nothing of it; no crash is counted. Returns the runs.

    A restarted supervisor does so having seen that the trainers are dead; a running one on a `device` where it has nothing to
    do: what it holds there was claimed, and the answer was lost.
    """
    query = select(Run).where(Run.holder == worker, Run.lease_until.is_not(None)).with_for_update()
    if device is not None:
        current = (Attempt.run_id == Run.id, Attempt.number == Run.attempt)
        query = query.where(exists().where(*current, Attempt.device == device))
    held = list(session.execute(query.execution_options(populate_existing=True)).scalars())
    for run in held:
        settle(session, run, limits)
    return [run.id for run in held]


def drain(session: Session, worker: str, *, is_drained: bool) -> Worker:
    """A drained worker finishes what it holds and takes no further run, until it is let go again. Raises `NotFound`."""
    row = session.get(Worker, worker)
    if row is None:
        raise NotFound(f"There is no worker “{worker}”.", hint="Look it up in the list of workers.")
    row.drained_at = (row.drained_at or _now(session)) if is_drained else None
    if not is_drained:
        session.add(Outbox(hint="worker", subject=row.name))
    return row


def to_purge(
    session: Session, place: str, hours: int, *, but_for: Collection[UUID] = (), limit: int | None = None
) -> list[Run]:
    """Discarded runs whose day of grace is over, and whose files lie in this storage. They are locked."""
    over = _now(session) - timedelta(hours=hours)
    query = select(Run).where(Run.discarded_at < over, or_(Run.place.is_(None), Run.place == place))
    query = query.where(func.coalesce(Run.facts["purged"].astext, "") != "true", Run.id.not_in(but_for)).limit(limit)
    return list(session.execute(query.with_for_update(skip_locked=True)).scalars())


def give_up(session: Session, token: Token, limits: Limits) -> State:
    """Leave an attempt before a trainer was started, or after it was killed on a person's word."""
    return settle(session, hold(session, token), limits)


# ---- checkpoints, artifacts, amendments -----------------------------------------------------------------------------


def amendments(session: Session, run_id: UUID) -> list[Amendment]:
    """All changes of the run in their order; those that were applied carry their step."""
    return _amendments(session, AmendmentRow.run_id == run_id)


def pending(session: Session, run_id: UUID) -> list[Amendment]:
    """Those that no trainer has applied yet, in their order."""
    return _amendments(session, AmendmentRow.run_id == run_id, AmendmentRow.step.is_(None))


def _amendments(session: Session, *where: ColumnElement[bool]) -> list[Amendment]:
    rows = session.execute(select(AmendmentRow).where(*where).order_by(AmendmentRow.sequence)).scalars()
    return [
        Amendment.model_validate({k: getattr(row, k) for k in ("sequence", "field", "value", "step")}) for row in rows
    ]


def amended_recipe(session: Session, run: Run) -> Json:
    """The recipe as people's changes in mid-run have left it: what a clone starts from."""
    recipe: Json = {name: dict(value) if isinstance(value, dict) else value for name, value in run.recipe.items()}
    for amendment in amendments(session, run.id):
        group, name = amendment.field.split(".")
        recipe[group][name] = amendment.value
    return recipe


def published(session: Session, run_id: UUID) -> list[CheckpointRow]:
    """The checkpoints that a run may go on from, the newest first."""
    query = select(CheckpointRow).where(CheckpointRow.run_id == run_id, CheckpointRow.replaced_at.is_(None))
    return list(session.execute(query.order_by(CheckpointRow.step.desc())).scalars())


def recorded_steps(session: Session, run_id: UUID, attempt: int) -> frozenset[int]:
    """The steps of an attempt's checkpoints that have a row, replaced or not: what lies on disk besides is yet unpublished."""
    query = select(CheckpointRow.step).where(CheckpointRow.run_id == run_id, CheckpointRow.attempt == attempt)
    return frozenset(session.execute(query).scalars())


def newest_checkpoint(session: Session, run_id: UUID) -> CheckpointRow | None:
    return next(iter(published(session, run_id)), None)


def publish_checkpoint(session: Session, run: Run, row: CheckpointRow, *, place: str) -> None:
    """Record a checkpoint whose files are complete, and replace the oldest beyond what the recipe keeps.

    The files of replaced ones are deleted by the supervisor, after this is committed.
    """
    known = session.get(CheckpointRow, (row.run_id, row.attempt, row.step))
    if known is not None:
        return
    session.add(row)
    session.flush()
    run.crashes = run.tries = 0
    run.place = place
    keep = int(run.recipe["saving"]["save_total_limit"])
    for old in published(session, run.id)[keep:]:
        old.replaced_at = _now(session)
    emit(session, run, EventKind.CHECKPOINT, {"bytes": row.bytes}, step=row.step)


def replace_checkpoints(session: Session, run: Run, after: int) -> None:
    """Checkpoints of later steps than `after` no longer belong to the run's history."""
    beyond = (CheckpointRow.run_id == run.id, CheckpointRow.replaced_at.is_(None), CheckpointRow.step > after)
    session.execute(update(CheckpointRow).where(*beyond).values(replaced_at=func.clock_timestamp()))


def withdraw_artifacts(session: Session, run: Run) -> None:
    """What an earlier end of the run gave away no longer stands for it."""
    standing = (Artifact.run_id == run.id, Artifact.withdrawn_at.is_(None))
    session.execute(update(Artifact).where(*standing).values(withdrawn_at=func.clock_timestamp()))


# ---- the end of a trainer --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """How a trainer ended. Without an outcome it died, and `cause` says how."""

    outcome: Outcome | None
    cause: Problem | None = None


def reap(session: Session, token: Token, ending: Ending, limits: Limits) -> State:
    """Enter the state that follows from a trainer's end and the person's last word, after all it wrote was shipped."""
    run = hold(session, token)
    told_to_end = run.intent in (Intent.STOP, Intent.PAUSE)
    match ending.outcome:
        case Outcome.DONE if run.intent == Intent.RUN or run.intent == Intent.PAUSE:
            run.intent = Intent.RUN
            enter_succeeded(session, run)
        case Outcome.DONE:
            enter_stopped(session, run)
        case Outcome.EMPTY if run.intent == Intent.KEEP:
            enter_stopped(session, run)
        case Outcome.FAILED if not told_to_end:
            enter_failed(session, run, ending.cause or Problem("failed", "The trainer gave up without saying why."))
        case None:
            _count_death(session, run, ending, limits)
        case Outcome.PAUSED | Outcome.EMPTY | Outcome.FAILED:
            settle(session, run, limits)
        case never:
            assert_never(never)
    return State(run.state)


def _count_death(session: Session, run: Run, ending: Ending, limits: Limits) -> None:
    """Three deaths in a row without a newer checkpoint are enough, unless a person's word comes first.

    Each is told with its cause at once: a run that goes on by itself would otherwise hide it.
    """
    run.crashes += 1
    how = ending.cause.message if ending.cause else "It left no word."
    words = f"The trainer died. {how}"
    emit(session, run, EventKind.LOG, {"level": "error", "text": words}, step=run.step)
    _close_attempt(session, run, how)
    if run.crashes < limits.crash_limit or run.intent in (Intent.STOP, Intent.PAUSE):
        settle(session, run, limits)
        return
    message = f"The trainer died {run.crashes} times in a row at step {run.step}. {how}"
    hint = ending.cause.hint if ending.cause and ending.cause.hint else "Read the end of the log; then resume or clone."
    enter_failed(session, run, Problem("crashed", message, hint=hint))
