"""A Hypothesis state machine: the real functions on a real Postgres, compared after each step with a small pure model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from backend.core import history, journal, runs
from backend.core.assignment import Checkpoint, Line, LineKind, Outcome
from backend.core.errors import Conflict, Fenced
from backend.core.models import (
    ACTIVE,
    Artifact,
    Attempt,
    CheckpointRow,
    Point,
    Run,
    RunEvent,
)
from backend.core.recipe import read_recipe
from tests.fuzz import life_model as model

RECIPE = {
    "name": "life",
    "model": "tiny",
    "data": {"sets": ["owls"]},
    "method": "lora",
    "saving": {"save_total_limit": model.KEEPS},
}
LIMITS = runs.Limits(crash_limit=model.CRASHES, attempt_limit=model.TRIES)
PLACES = {"a": "here", "b": "here", "c": "there"}
"""Workers, and where their files lie: the first two share a folder."""
LONG, OVER = 3600.0, 0.0
LINE_BYTES = 10

workers = st.sampled_from(sorted(PLACES))
few = st.integers(1, 4)


class RunLife(RuleBasedStateMachine):
    """One run, three workers, everybody's wishes. `engine` is given by whoever runs it."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.life = model.Life()
        self.seen: list[tuple[runs.Lease, int]] = []
        with self.transaction() as session:
            session.execute(text("TRUNCATE runs CASCADE"))
            made = runs.create(
                session, recipe=read_recipe(RECIPE).recipe, model={"path": "tiny", "revision": None}, data=[]
            )
            self.run_id: UUID = made.id

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with Session(self.engine) as session, session.begin():
            yield session

    def said(self, allowed: bool, act: Any) -> None:
        """The functions refuse exactly what the model refuses, and then change nothing."""
        with nullcontext() if allowed else pytest.raises(Conflict), self.transaction() as session:
            act(session)

    # ---- people ------------------------------------------------------------------------------------------------------

    @rule()
    def pause(self) -> None:
        self.said(self.life.pause(), lambda session: runs.pause(session, self.run_id))

    @rule()
    def resume(self) -> None:
        self.said(self.life.resume(), lambda session: runs.resume(session, self.run_id))

    @rule(keep=st.booleans())
    def stop(self, keep: bool) -> None:
        self.said(self.life.stop(keep=keep), lambda session: runs.stop(session, self.run_id, keep=keep))

    @rule(hours=st.sampled_from((0, 24)))
    def restore(self, hours: int) -> None:
        allowed = self.life.restore(is_in_time=hours > 0)
        self.said(allowed, lambda session: runs.restore(session, self.run_id, hours))

    @rule()
    def start_over(self) -> None:
        self.said(self.life.start_over(), lambda session: runs.start_over(session, self.run_id))

    @rule()
    def amend(self) -> None:
        field, value = "training.learning_rate", 1e-4
        self.said(self.life.amend(), lambda session: runs.amend(session, self.run_id, field, value, None))

    # ---- workers -----------------------------------------------------------------------------------------------------

    @rule()
    def look(self) -> None:
        with self.transaction() as session:
            self.seen += [(lease, self.life.lease) for lease in runs.leases(session)]

    @rule(worker=workers, is_over=st.booleans(), data=st.data())
    def claim(self, worker: str, is_over: bool, data: st.DataObject) -> None:
        lease, seen = data.draw(st.sampled_from(self.seen)) if self.seen else (None, None)
        allowed = self.life.may_be_claimed(PLACES[worker], seen)
        with self.transaction() as session:
            token = runs.claim(
                session,
                worker=worker,
                device="cpu",
                place=PLACES[worker],
                lease_seconds=OVER if is_over else LONG,
                limits=LIMITS,
                expired=[lease] if lease else [],
                run_id=self.run_id,
            )
        assert (token is not None) == allowed
        if token:
            self.life.claim(worker, is_over=is_over)
            assert token.attempt == self.life.attempt

    @precondition(lambda self: self.life.attempt)
    @rule(is_over=st.booleans(), data=st.data())
    def renew(self, is_over: bool, data: st.DataObject) -> None:
        token = self.token(data)
        with self.fenced(token), self.transaction() as session:
            runs.renew(session, token, OVER if is_over else LONG)
        if self.life.holds(token.attempt):
            self.life.extend(is_over=is_over)

    @precondition(lambda self: self.life.holder and self.life.begun != self.life.attempt)
    @rule(adopts=st.booleans())
    def begin(self, adopts: bool) -> None:
        """As a claimant does it: choose, ship what belongs to the chosen one, take the history over."""
        life, place = self.life, PLACES[str(self.life.holder)]
        unpublished = self.unpublished() if adopts else []
        step = max([*life.standing, *unpublished], default=0)
        adopted = step if step in unpublished and step not in life.standing else None
        before = life.attempts.get(life.begun)
        if before and not before.is_closed:
            upto = next((at for at, line in enumerate(before.lines) if line == ("checkpoint", step)), -1) + 1
            self.ship_lines(life.begun, max(0, upto - before.offset))
        pick = Checkpoint(folder=f"c-{step}", step=step, attempt=life.standing.get(step, life.begun)) if step else None
        row = None
        if adopted is not None:
            row = CheckpointRow(
                run_id=self.run_id, attempt=life.begun, step=step, folder=f"c-{step}", manifest_sha256="0" * 64, bytes=1
            )
        token = runs.Token(self.run_id, life.attempt)
        for _ in range(2):  # its answer may be lost, and then it is said again
            with self.transaction() as session:
                history.begin(session, token, pick, adopted=row, place=place)
        life.begin(step, adopted, place)

    def unpublished(self) -> list[int]:
        """Steps of checkpoints that lie on disk, in the journal of whoever owns the history, and have no row."""
        owner = self.life.attempts.get(self.life.begun)
        lines = owner.lines if owner else []
        saved = [step for kind, step in lines if kind == "checkpoint"]
        return [step for step in saved if (self.life.begun, step) not in self.life.recorded]

    @precondition(lambda self: self.life.begun and self.life.begun == self.life.attempt)
    @rule(steps=few, ends=st.sampled_from(("", "checkpoint", "training", "saving", "artifact", "amended")))
    def train(self, steps: int, ends: str) -> None:
        """A trainer writes lines, whether anybody still wants them or not."""
        attempt = self.life.attempts[self.life.begun]
        for _ in range(steps):
            attempt.at += 1
            attempt.lines.append(("metrics", attempt.at))
        if ends:
            attempt.lines.append((ends, attempt.at))

    @precondition(lambda self: self.life.begun)
    @rule(count=few)
    def ship(self, count: int) -> None:
        attempt = self.life.attempts[self.life.begun]
        if not attempt.is_closed:
            self.ship_lines(self.life.begun, min(count, len(attempt.lines) - attempt.offset))

    @precondition(lambda self: self.life.begun and self.life.holder)
    @rule()
    def ship_again(self) -> None:
        """The answer to a commit was lost: the same bytes come once more."""
        attempt = self.life.attempts[self.life.begun]
        if not attempt.offset:
            return
        with pytest.raises(journal.OffsetMoved) as moved:
            self.send(self.life.begun, attempt.offset - 1, 1, self.life.attempt)
        assert moved.value.stored == attempt.offset * LINE_BYTES

    @precondition(lambda self: self.life.attempt)
    @rule(data=st.data())
    def ship_as_somebody_who_was_replaced(self, data: st.DataObject) -> None:
        token = self.token(data)
        if not self.life.holds(token.attempt):
            with self.fenced(token):
                self.send(token.attempt, self.life.attempts[token.attempt].offset, 0, token.attempt)

    @precondition(lambda self: self.life.attempt)
    @rule(outcome=st.sampled_from((*Outcome, None)), data=st.data())
    def reap(self, outcome: Outcome | None, data: st.DataObject) -> None:
        token = self.token(data)
        with self.fenced(token), self.transaction() as session:
            runs.reap(session, token, runs.Ending(outcome), LIMITS)
        if self.life.holds(token.attempt):
            self.life.reap(outcome)

    @precondition(lambda self: self.life.attempt)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        token = self.token(data)
        with self.fenced(token), self.transaction() as session:
            runs.give_up(session, token, LIMITS)
        if self.life.holds(token.attempt):
            self.life.settle()

    @rule(worker=workers)
    def restart(self, worker: str) -> None:
        with self.transaction() as session:
            freed = runs.free_own(session, worker, LIMITS)
        assert bool(freed) == (self.life.holder == worker)
        if freed:
            self.life.settle()

    @rule(data=st.data())
    def end_unheld(self, data: st.DataObject) -> None:
        lease, seen = data.draw(st.sampled_from(self.seen)) if self.seen else (None, None)
        with self.transaction() as session:
            runs.end_unheld(session, [lease] if lease else [], LIMITS)
        self.life.end_unheld(seen)

    @rule(place=st.sampled_from(("here", "there")), hours=st.sampled_from((0, 24)))
    def purge(self, place: str, hours: int) -> None:
        due = self.life.is_discarded and not self.life.is_purged and hours == 0 and self.life.place in (None, place)
        with self.transaction() as session:
            found = runs.to_purge(session, place, hours)
            assert bool(found) == due
            for run in found:
                run.facts = run.facts | {"purged": True}
        self.life.is_purged = self.life.is_purged or due

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def token(self, data: st.DataObject) -> runs.Token:
        """Anybody who ever claimed the run may come back with the token of that time."""
        return runs.Token(self.run_id, data.draw(st.integers(1, self.life.attempt)))

    @contextmanager
    def fenced(self, token: runs.Token) -> Iterator[None]:
        """Whoever holds the run may write; everybody else is refused."""
        try:
            yield
        except Fenced:
            assert not self.life.holds(token.attempt), "the holder was refused"
        else:
            assert self.life.holds(token.attempt), "somebody wrote who does not hold the run"

    def ship_lines(self, number: int, count: int) -> None:
        attempt = self.life.attempts[number]
        token = runs.Token(self.run_id, self.life.attempt)
        with self.fenced(token):
            self.send(number, attempt.offset, count, token.attempt)
        if self.life.holds(token.attempt):
            self.life.ship(number, count, PLACES[str(self.life.holder)])
            self.life.extend(is_over=False)

    def send(self, number: int, first: int, count: int, by: int) -> None:
        """`count` lines of the journal of attempt `number`, as the attempt `by` ships them."""
        lines = self.life.attempts[number].lines[first : first + count]
        told = [self.line(number, first + at, *line) for at, line in enumerate(lines)]
        batch = journal.Batch(number, first * LINE_BYTES, (first + count) * LINE_BYTES, told)
        place = PLACES[self.life.attempts[by].worker]
        with self.transaction() as session:
            origin = journal.Origin(place, f"runs/{self.run_id}/attempt-{number}")
            journal.ship(session, runs.Token(self.run_id, by), batch, origin, LONG)

    def line(self, number: int, at: int, kind: str, step: int) -> Line:
        kept: dict[str, dict[str, Any]] = {
            "metrics": {"values": {"loss": model.value_of(number, at)}, "epoch": 0.0},
            "checkpoint": {"folder": f"checkpoints/{step}", "manifest_sha256": "0" * 64, "bytes": 1},
            "artifact": {"kind": "adapter", "folder": "artifacts/adapter", "bytes": 1, "sha256": "0" * 64, "files": []},
            "amended": {"sequence": self.pending()},
            "training": {"phase": "training", "text": ""},
            "saving": {"phase": "saving", "text": ""},
        }
        kinds = {"training": LineKind.PHASE, "saving": LineKind.PHASE}
        return Line(n=at, t=1e9 + at, kind=kinds.get(kind) or LineKind(kind), step=step, data=kept[kind])

    def pending(self) -> int:
        """The first amendment that no trainer has applied yet; 0, of which there is none, where all are."""
        return next((at for at, step in enumerate(self.life.changes, start=1) if step is None), 0)

    # ---- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def postgres_holds_what_the_model_says(self) -> None:
        with self.transaction() as session:
            run = session.get_one(Run, self.run_id)
            life = self.life
            told = (run.state, run.intent, run.attempt, run.holder, run.begun, run.step, run.place)
            assert told == (life.state, life.intent, life.attempt, life.holder, life.begun, life.step, life.place)
            assert (run.crashes, run.tries) == (life.crashes, life.tries)
            assert (run.discarded_at is not None) == life.is_discarded
            assert {row.step: row.attempt for row in runs.published(session, run.id)} == life.standing
            assert [change.step for change in runs.amendments(session, run.id)] == life.changes
            self.check_attempts(session, run)
            self.check_history(session, run)
            artifacts = select(Artifact).where(Artifact.run_id == run.id, Artifact.withdrawn_at.is_(None))
            assert bool(session.scalars(artifacts).all()) == life.has_artifact

    def check_attempts(self, session: Session, run: Run) -> None:
        """At most one lives, and only while it is held; offsets are where the journal was shipped to."""
        found = session.scalars(select(Attempt).where(Attempt.run_id == run.id).order_by(Attempt.number)).all()
        assert [row.number for row in found] == list(range(1, run.attempt + 1))
        alive = [row.number for row in found if row.ended_at is None]
        assert alive == ([run.attempt] if run.lease_until is not None else [])
        assert (run.lease_until is not None) == (run.state in ACTIVE) == (run.holder is not None)
        for row in found:
            known = self.life.attempts[row.number]
            assert (row.journal_offset, row.closed_at is not None) == (known.offset * LINE_BYTES, known.is_closed)

    def check_history(self, session: Session, run: Run) -> None:
        """Events are numbered without gaps, and whoever follows them sees each step once, as the tables have it."""
        events = journal.events(session, run.id, limit=100_000)
        assert [event.seq for event in events] == list(range(1, run.seq + 1))
        drawn = folded(events)
        stored = session.execute(select(Point.step, Point.value).where(Point.run_id == run.id, Point.name == "loss"))
        assert drawn == dict(stored.all()) == self.life.points
        states = [event.data for event in events if event.kind == "state"]
        assert (states[-1]["state"], states[-1]["intent"]) == (run.state, run.intent)


def folded(events: list[RunEvent]) -> dict[int, float]:
    """What a client that follows the events has drawn at their end."""
    drawn: dict[int, float] = {}
    for event in events:
        if event.kind == "metrics":
            drawn[event.step] = event.data["values"]["loss"]
        if event.kind == "rewound":
            drawn = {step: value for step, value in drawn.items() if step <= event.data["step"]}
    return drawn
