"""What a run's life should be, as plain data: written from the design, to be compared with what Postgres holds.

It knows nothing of sessions, rows and SQL. Every method that a person or a worker may call answers whether it was allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.core.assignment import Outcome
from backend.core.models import ACTIVE, Intent, State

KEEPS = 2
"""Checkpoints that the recipe keeps."""
CRASHES, TRIES = 2, 3
"""How much patience the run gets."""


@dataclass
class Attempt:
    """One claim of the run, and the journal that its trainer would write."""

    worker: str
    offset: int = 0
    lines: list[tuple[str, int]] = field(default_factory=list)
    """(kind, step) of every line that was written."""
    at: int = 0
    """The step that the trainer has come to."""
    is_closed: bool = False
    """Nothing of this journal is taken any more, for ever."""


@dataclass
class Life:
    """One run."""

    state: State = State.QUEUED
    intent: Intent = Intent.RUN
    attempt: int = 0
    holder: str | None = None
    lease: int = 0
    """Counts every change of the lease; a lease that was seen is taken over only where it still is the same."""
    is_over: bool = False
    """The lease ran out by the clock; that alone changes nothing."""
    begun: int = 0
    step: int = 0
    crashes: int = 0
    tries: int = 0
    place: str | None = None
    is_discarded: bool = False
    was_queued: bool = False
    """It was discarded while it stood in the queue, and goes back there when that is undone."""
    is_purged: bool = False
    attempts: dict[int, Attempt] = field(default_factory=dict)
    standing: dict[int, int] = field(default_factory=dict)
    """Published checkpoints that were not replaced: step → attempt."""
    recorded: set[tuple[int, int]] = field(default_factory=set)
    """(attempt, step) of every checkpoint that was ever published."""
    points: dict[int, float] = field(default_factory=dict)
    changes: list[int | None] = field(default_factory=list)
    """For each amendment, the step from which it holds."""
    has_artifact: bool = False

    # ---- what people do ------------------------------------------------------------------------------------------

    def pause(self) -> bool:
        if self.state not in (State.QUEUED, *ACTIVE) or self.intent != Intent.RUN:
            return False
        self.intent = Intent.PAUSE
        if self.state == State.QUEUED:
            self._leave(State.PAUSED)
        return True

    def resume(self) -> bool:
        called_off = self.state in ACTIVE and self.intent == Intent.PAUSE
        if self.is_discarded or not (called_off or self.state in (State.PAUSED, State.FAILED, State.STOPPED)):
            return False
        self.intent, self.crashes, self.tries, self.has_artifact = Intent.RUN, 0, 0, False
        if not called_off:
            self._leave(State.QUEUED)
        return True

    def stop(self, *, keep: bool) -> bool:
        is_going = self.state in (State.QUEUED, State.PAUSED, *ACTIVE)
        if not is_going or (keep and self.intent == Intent.STOP):
            return False
        self.was_queued = (self.state, self.intent) == (State.QUEUED, Intent.RUN)
        self.intent = Intent.KEEP if keep else Intent.STOP
        if self.state in ACTIVE:
            return True
        if not keep or not self.standing:
            self._stopped()
        elif self.state == State.PAUSED:
            self._leave(State.QUEUED)
        return True

    def restore(self, *, is_in_time: bool) -> bool:
        if not self.is_discarded or self.is_purged or not is_in_time:
            return False
        self.is_discarded = False
        self.intent = Intent.RUN if self.was_queued else Intent.PAUSE
        self._leave(State.QUEUED if self.was_queued else State.PAUSED)
        return True

    def start_over(self) -> bool:
        waits = self.state == State.QUEUED or (self.holder is not None and self.is_over)
        if not waits or self.intent != Intent.RUN:
            return False
        self.standing.clear()
        self.place, self.crashes, self.tries = None, 0, 0
        self._leave(State.QUEUED)
        return True

    def amend(self) -> bool:
        is_going = self.state in (State.QUEUED, State.PAUSED, *ACTIVE)
        if not is_going or self.intent in (Intent.STOP, Intent.KEEP):
            return False
        self.changes.append(None)
        return True

    # ---- what workers do -----------------------------------------------------------------------------------------

    def may_be_claimed(self, place: str, seen: int | None) -> bool:
        """`seen` is the lease that this claimant has watched, unchanged."""
        is_free = self.state == State.QUEUED or (self.holder is not None and seen == self.lease)
        is_wanted = self.intent in (Intent.RUN, Intent.KEEP) and self.tries < TRIES
        return is_free and is_wanted and self.place in (None, place)

    def claim(self, worker: str, *, is_over: bool) -> None:
        self.attempt += 1
        self.tries += 1
        self.holder, self.state = worker, State.PREPARING
        self.attempts[self.attempt] = Attempt(worker)
        self.extend(is_over=is_over)

    def holds(self, attempt: int) -> bool:
        return self.holder is not None and attempt == self.attempt

    def extend(self, *, is_over: bool) -> None:
        self.lease += 1
        self.is_over = is_over

    def begin(self, step: int, adopted: int | None, place: str) -> None:
        """The current attempt takes the history over, from a checkpoint of `step` on."""
        if adopted is not None:
            self.standing[adopted] = self.begun
            self.recorded.add((self.begun, adopted))
            self.place = place
        self.standing = {at: attempt for at, attempt in self.standing.items() if at <= step}
        self.has_artifact = False
        if self.begun:
            self.points = {at: value for at, value in self.points.items() if at <= step}
            self.step = step
        for number, attempt in self.attempts.items():
            attempt.is_closed = attempt.is_closed or number < self.attempt
        self.attempts[self.attempt].at = step
        self.begun = self.attempt

    def ship(self, number: int, count: int, place: str) -> None:
        """Store the next `count` lines of an attempt's journal. Those of an older attempt publish nothing."""
        attempt = self.attempts[number]
        for at in range(attempt.offset, attempt.offset + count):
            self._store(*attempt.lines[at], number, at, place)
        attempt.offset += count

    def _store(self, kind: str, step: int, number: int, at: int, place: str) -> None:
        is_own = number == self.attempt
        match kind:
            case "metrics":
                self.points[step] = value_of(number, at)
                self.step = max(self.step, step)
            case "amended":
                self.changes = [step if each is None else each for each in self.changes]
            case "training" if is_own:
                self.state = State.TRAINING
            case "saving" if is_own:
                self.state = State.FINISHING
            case "artifact" if is_own:
                self.has_artifact = True
            case "checkpoint" if is_own and (number, step) not in self.recorded:
                self.crashes = self.tries = 0
                self.place = place
                self.recorded.add((number, step))
                self.standing[step] = number
                self.standing = dict(sorted(self.standing.items())[-KEEPS:])

    def settle(self) -> None:
        """Nobody holds the run any more."""
        match self.intent:
            case Intent.STOP:
                self._stopped()
            case Intent.PAUSE:
                self._leave(State.PAUSED)
            case Intent.RUN | Intent.KEEP if self.tries >= TRIES:
                self.intent = Intent.PAUSE
                self._leave(State.PAUSED)
            case _:
                self._leave(State.QUEUED)

    def reap(self, outcome: Outcome | None) -> None:
        """A trainer ended so; without an outcome it died."""
        told_to_end = self.intent in (Intent.STOP, Intent.PAUSE)
        match outcome:
            case Outcome.DONE if self.intent in (Intent.RUN, Intent.PAUSE):
                self.intent = Intent.RUN
                self._leave(State.SUCCEEDED)
            case Outcome.DONE:
                self._stopped()
            case Outcome.EMPTY if self.intent == Intent.KEEP:
                self._stopped()
            case Outcome.FAILED if not told_to_end:
                self._leave(State.FAILED)
            case None:
                self.crashes += 1
                self.settle() if self.crashes < CRASHES or told_to_end else self._leave(State.FAILED)
            case _:
                self.settle()

    def end_unheld(self, seen: int | None) -> None:
        is_unheld = self.state == State.QUEUED or (self.holder is not None and seen == self.lease)
        if is_unheld and (self.intent in (Intent.PAUSE, Intent.STOP) or self.tries >= TRIES):
            self.settle()

    def _stopped(self) -> None:
        if self.intent == Intent.STOP:
            self.is_discarded, self.has_artifact = True, False
        self._leave(State.STOPPED)

    def _leave(self, state: State) -> None:
        self.state, self.holder = state, None


def value_of(attempt: int, at: int) -> float:
    """The loss that stands on a line: different for each line of each attempt, so that none is taken for another."""
    return attempt * 1000 + at
