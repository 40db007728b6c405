"""The history of a run has one owner at a time; here a newly claimed attempt takes it over."""

from __future__ import annotations

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from backend.core import journal, runs
from backend.core.assignment import Amendment, Checkpoint
from backend.core.models import Attempt, CheckpointRow


def begin(
    session: Session, token: runs.Token, pick: Checkpoint | None, *, adopted: CheckpointRow | None, place: str
) -> list[Amendment]:
    """Own the history from `pick` on: adopt the checkpoint, rewind behind it, close every older journal for ever, say so.

    `adopted` is the row of a checkpoint that was on disk but not yet published. Returns the amendments that the trainer
    is to apply. Only after this is committed may a trainer start. Raises `Fenced`.
    """
    run = runs.hold(session, token)
    if run.begun == token.attempt:  # it is committed already, and only the answer was lost
        return runs.amendments(session, run.id)
    step = pick.step if pick else 0
    if adopted:
        session.add(adopted)
        run.place = place
    runs.replace_checkpoints(session, run, after=step)
    runs.withdraw_artifacts(session, run)
    if run.begun:
        journal.rewind(session, run, step)
    older = (Attempt.run_id == run.id, Attempt.number < token.attempt, Attempt.closed_at.is_(None))
    session.execute(update(Attempt).where(*older).values(closed_at=func.clock_timestamp()))
    own = (Attempt.run_id == run.id, Attempt.number == token.attempt)
    session.execute(update(Attempt).where(*own).values(base_step=step, journal_offset=0))
    run.begun = token.attempt
    return runs.amendments(session, run.id)
