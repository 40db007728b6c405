"""One claimed attempt, from the claim to its end: pick a checkpoint, take the history over, watch the trainer, reap it.

Every step is one transaction, so that an outage of Postgres merely repeats the step. What the trainer wrote is shipped
before the attempt is left, and a trainer starts only after `begin` is committed.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from backend.core import history, journal, runs
from backend.core.assignment import (
    ASSIGNMENT,
    CONTROL,
    JOURNAL,
    Amendment,
    Assignment,
    Change,
    Checkpoint,
    DataFile,
    LineKind,
    Order,
    Outcome,
    Word,
)
from backend.core.awake import Awake
from backend.core.errors import Fenced, Problem, StudioError
from backend.core.events import EventKind, emit
from backend.core.models import Attempt, Intent, Run, State
from backend.core.recipe import Recipe
from backend.core.rendering.chat import ENDED_BY, endless
from worker import disks, spares, tail
from worker.host import Host, beside, is_outage
from worker.inputs import Inputs, fetch_inputs
from worker.picking import Pick, pick
from worker.spares import Trainer

log = logging.getLogger(__name__)

END_SECONDS = 20.0
"""How long a trainer that wrote its last line may take to exit."""
BACKLOG_SECONDS = 1.0
"""How long one turn may ship an older journal: the leases of the host's other runs are renewed between turns."""


class Doing(Enum):
    CLAIMED = auto()  # picking a checkpoint and fetching the inputs, beside the main thread
    PICKED = auto()  # shipping the journal of the attempt that owned the history
    BEGUN = auto()  # the history is ours: a trainer may start
    WATCHING = auto()
    ENDING = auto()  # its trainer was killed, if it had one: the run is to be told how the attempt ends
    OVER = auto()


@dataclass
class Work:
    """What is found out beside the main thread: where to go on from, and what to train on."""

    pick: Future[Pick]
    inputs: Future[Inputs]

    @property
    def is_done(self) -> bool:
        return self.pick.done() and self.inputs.done()

    @property
    def has_checkpoint(self) -> bool | None:
        """None as long as it is not known."""
        is_known = self.pick.done() and self.pick.exception() is None
        return self.pick.result().checkpoint is not None if is_known else None


@dataclass
class Told:
    """What the trainer was told already."""

    word: Word | None = None
    since: float = 0.0
    """By the clock of who looks on."""
    changes: set[int] = field(default_factory=set)


class Holding:
    """Called from the supervisor's main thread; `turn` never blocks for long."""

    def __init__(self, host: Host, token: runs.Token, device: str) -> None:
        self.host, self.token, self.device = host, token, device
        self.folder = host.settings.run_folder(token.run_id, token.attempt)
        self.doing = Doing.CLAIMED
        self.trainer: Trainer | None = None
        self._work: Work | None = None
        self._amendments: list[Amendment] = []
        self._offset, self._renewed = 0, time.monotonic()
        self._awake, self._last_line = Awake(), 0.0
        self._idle_seconds, self._phase, self._what = 0.0, "", ""
        self._has_trained = False
        self._warned_of: set[str] = set()
        self._end: dict[str, Any] | None = None
        self._ended_at = 0.0
        self._told = Told()
        self._killed_why, self._killed_at = "", math.inf
        self._decided: Callable[[Session], State] | None = None
        self._shut_down = False

    @property
    def is_loading(self) -> bool:
        """Whether its trainer still imports its libraries, since no spare was ready: it has written nothing yet."""
        return self.doing is Doing.WATCHING and not self._offset

    # ---- turns ---------------------------------------------------------------------------------------------------

    def turn(self, *, urgent: bool = False) -> None:
        """Go on with what is next. `urgent` asks Postgres at once what is wanted."""
        steps: dict[Doing, Callable[[bool], None]] = {
            Doing.CLAIMED: self._pick,
            Doing.PICKED: self._ship_owner,
            Doing.BEGUN: self._spawn,
            Doing.WATCHING: self._watch,
            Doing.ENDING: self._tell_end,
            Doing.OVER: lambda _urgent: None,
        }
        try:
            steps[self.doing](urgent)
        except Fenced:
            log.warning("attempt %s of run %s is over: somebody else goes on", self.token.attempt, self.token.run_id)
            self._leave()
        except Exception as error:
            if is_outage(error):
                raise
            log.exception("attempt %s of run %s cannot go on", self.token.attempt, self.token.run_id)
            self._break_off(cause_of(error))

    def _leave(self) -> None:
        if self.trainer is not None:
            self.trainer.kill()
        self.doing = Doing.OVER

    def _decide(self, enter: Callable[[Session], State]) -> None:
        """Kill the trainer, and stand by why, until a turn reaches Postgres: none of them takes the kill for a death."""
        self._decided, self.doing = enter, Doing.ENDING
        if self.trainer is not None:
            self.trainer.kill()

    def _tell_end(self, _urgent: bool = False) -> None:
        assert self._decided is not None
        with self.host.transaction() as session:
            self._decided(session)
        self.doing = Doing.OVER

    def _reaping(self, ending: runs.Ending) -> Callable[[Session], State]:
        return lambda session: runs.reap(session, self.token, ending, self.host.limits)

    def _break_off(self, cause: Problem) -> None:
        """Trying again at once would not mend it, and the host's other runs are to go on."""
        self._decide(self._reaping(runs.Ending(Outcome.FAILED, cause)))

    def _give_up(self) -> None:
        """End the attempt as the person's word says."""
        self._decide(lambda session: runs.give_up(session, self.token, self.host.limits))
        self._tell_end()

    def _end_empty(self) -> None:
        """Stop a run that was told to keep what it does not have. One that had it fails, and names what is damaged."""
        damaged = self._work.pick.result().passed_over if self._work is not None else ()
        if damaged and self.doing in (Doing.CLAIMED, Doing.PICKED):
            message = f"Nothing is left that could be kept. {' '.join(damaged)}"
            hint = "Bring the files back from a backup, or resume the run: it trains from its first step again."
            self._break_off(Problem("checkpoint.damaged", message, hint=hint))
            return
        self._decide(self._reaping(runs.Ending(Outcome.EMPTY)))
        self._tell_end()

    def _renew(self, session: Session) -> journal.Heard:
        self._renewed = time.monotonic()
        return journal.hear(session, runs.renew(session, self.token, self.host.settings.lease_seconds))

    def _due(self) -> bool:
        return time.monotonic() - self._renewed >= self.host.settings.renew_seconds

    def _still_wanted(self, urgent: bool) -> bool:
        """Renew where it is time, and leave where a person or the host's shutdown wants it before a trainer was started."""
        if self._shut_down:
            self._give_up()
            return False
        if not urgent and not self._due():
            return True
        with self.host.transaction() as session:
            heard = self._renew(session)
        if heard.intent in (Intent.PAUSE, Intent.STOP):
            self._give_up()
        elif heard.intent == Intent.KEEP and self._has_nothing:
            self._end_empty()
        return self.doing not in (Doing.ENDING, Doing.OVER)

    @property
    def _has_nothing(self) -> bool:
        """Whether the run surely has no checkpoint to go on from or to export, nor a step to make one of."""
        has_none = self._work is not None and self._work.has_checkpoint is False and not self._has_trained
        return has_none and self._is_all_shipped

    @property
    def _is_all_shipped(self) -> bool:
        """Whether its trainer has told no more than is known: behind an outage a journal goes in many batches."""
        return tail.read(self.folder / JOURNAL, self._offset).end == self._offset

    # ---- taking over ---------------------------------------------------------------------------------------------

    def _pick(self, urgent: bool) -> None:
        if self._work is None:
            with self.host.transaction() as session:
                run = runs.hold(session, self.token)
                published = runs.published(session, run.id)
                recorded = runs.recorded_steps(session, run.id, run.begun)
                session.expunge_all()
            find = partial(pick, self.host.settings.root, run, published, recorded)
            self._work = Work(beside(find), beside(partial(fetch_inputs, self.host.settings, run)))
        if not self._still_wanted(urgent) or not self._work.is_done:
            return
        self._work.inputs.result()  # what went wrong with it is told before the history changes hands
        self.doing = Doing.PICKED
        self._ship_owner(urgent)

    def _ship_owner(self, urgent: bool) -> None:
        """Ship what the owner's journal still holds: from its host's file, else from the checkpoint's own copy."""
        if not self._still_wanted(urgent):
            return
        assert self._work is not None
        chosen = self._work.pick.result()
        until = time.monotonic() + BACKLOG_SECONDS
        while self.doing is Doing.PICKED:
            if time.monotonic() > until:
                return
            with self.host.transaction() as session:
                run = runs.hold(session, self.token)
                batch = self._owner_batch(session, run, chosen.checkpoint)
                is_empty = batch is None and run.intent == Intent.KEEP and self._has_nothing
                if batch is not None:
                    journal.ship(session, self.token, batch, self._origin(run.begun), self.host.settings.lease_seconds)
                elif not is_empty:  # else to begin would take back what is shown, for nothing
                    self._begin(session, run, chosen)
            if is_empty:
                self._end_empty()
                return
            if batch is None:
                self.doing = Doing.BEGUN
        self._spawn(urgent)

    def _owner_batch(self, session: Session, run: Run, checkpoint: Checkpoint | None) -> journal.Batch | None:
        row = session.get(Attempt, (run.id, run.begun)) if run.begun else None
        if row is None or row.closed_at is not None:
            return None
        places = [self.host.settings.run_folder(run.id, run.begun)]
        if checkpoint is not None and checkpoint.attempt == run.begun:
            places.append(checkpoint.folder)
        for place in places:
            chunk = tail.read(place / JOURNAL, row.journal_offset)
            if chunk.end > chunk.start:
                return journal.Batch(run.begun, chunk.start, chunk.end, chunk.lines)
        return None

    def _begin(self, session: Session, run: Run, chosen: Pick) -> None:
        for text in chosen.passed_over if run.begun != self.token.attempt else ():
            emit(session, run, EventKind.LOG, {"level": "warning", "text": text})
        place = self.host.place
        self._amendments = history.begin(session, self.token, chosen.checkpoint, adopted=chosen.adopted, place=place)

    def _spawn(self, urgent: bool) -> None:
        """Start the trainer. Before that, its assignment is on disk."""
        if not self._still_wanted(urgent):
            return
        assert self._work is not None
        with self.host.transaction() as session:
            run = runs.renew(session, self.token, self.host.settings.lease_seconds)
            assignment = self._assignment(run, self._work.pick.result(), self._work.inputs.result())
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ASSIGNMENT
        path.write_text(assignment.model_dump_json(indent=1))
        self._told.changes = {each.sequence for each in self._amendments}
        self._told.word, self._told.since = assignment.word, math.inf  # it loads first, however long that takes
        self._last_line = self._awake.look()
        trainer = self.host.spares.take()
        self.watch(trainer)
        trainer.assign(path)

    def watch(self, trainer: Trainer) -> None:
        """Ship what this trainer writes from now on, until it ends or is to be ended."""
        self.trainer, self.doing = trainer, Doing.WATCHING

    def _assignment(self, run: Run, chosen: Pick, inputs: Inputs) -> Assignment:
        return Assignment(
            run=str(run.id),
            attempt=self.token.attempt,
            folder=self.folder,
            recipe=Recipe.model_validate(run.recipe),
            model_folder=inputs.model_folder,
            data=tuple(DataFile.model_validate(each) for each in inputs.data),
            resume=chosen.checkpoint,
            word=Word.KEEP if run.intent == Intent.KEEP else None,
            amendments=tuple(self._amendments),
            device=self.device,
            run_name=run.name,
        )

    def _origin(self, attempt: int) -> journal.Origin:
        return journal.Origin(self.host.place, f"runs/{self.token.run_id}/attempt-{attempt}")

    # ---- watching ------------------------------------------------------------------------------------------------

    def _watch(self, urgent: bool) -> None:
        assert self.trainer is not None
        code = self._exit_code()  # before reading: what it wrote before it ended is then all there
        if heard := self._ship(urgent):
            self._tell(heard)
        if self.doing is not Doing.WATCHING:
            return
        if code is not None:
            self._reap(code)
        elif not self._killed_why:
            self._lose_patience()

    def _exit_code(self) -> int | None:
        """One that hangs in a driver remains a process when it is killed, but does nothing of its own any more."""
        assert self.trainer is not None
        code = self.trainer.exit_code
        if code is None and time.monotonic() - self._killed_at > spares.KILL_SECONDS:
            return -signal.SIGKILL
        return code

    def _ship(self, urgent: bool) -> journal.Heard | None:
        """Ship what is new, or renew where it is time. Returns what the run's row says, if it was asked."""
        chunk = tail.read(self.folder / JOURNAL, self._offset)
        if chunk.end == chunk.start and not urgent and not self._due():
            return None
        batch = journal.Batch(self.token.attempt, chunk.start, chunk.end, chunk.lines)
        try:
            with self.host.transaction() as session:
                if chunk.end == chunk.start:
                    return self._renew(session)
                origin = self._origin(self.token.attempt)
                heard = journal.ship(session, self.token, batch, origin, self.host.settings.lease_seconds)
        except journal.OffsetMoved as moved:  # it is stored already, and only the answer was lost
            self._offset = moved.stored
            self._note(chunk)
            return None
        self._offset, self._renewed = chunk.end, time.monotonic()
        self._note(chunk)
        return heard

    def _note(self, chunk: tail.Chunk) -> None:
        self._last_line = self._awake.look()
        for line in chunk.lines:
            is_progress = line.kind == LineKind.PROGRESS
            self._idle_seconds = float(line.data.get("idle_seconds", 0)) if is_progress else 0.0
            self._what = line.data["what"] if is_progress else ""
            self._has_trained |= line.kind == LineKind.METRICS
            if line.kind == LineKind.PHASE:
                self._phase = line.data["phase"]
            if line.kind == LineKind.END:
                self._end, self._ended_at = line.data, self._last_line

    def _tell(self, heard: journal.Heard) -> None:
        """Pass on what is wanted. Where nothing would be lost, the trainer is not asked: loading may take minutes."""
        if heard.intent == Intent.STOP or (heard.intent == Intent.PAUSE and self._can_be_cut_off):
            self._give_up()
            return
        if heard.intent == Intent.KEEP and self._has_nothing:
            self._end_empty()
            return
        word = {Intent.PAUSE: Word.PAUSE, Intent.KEEP: Word.KEEP}.get(Intent(heard.intent))
        if word is not None and word is not self._told.word and not self._shut_down:
            self._control(Order(word=word))
            self._told.word, self._told.since = word, self._awake.look()
        for amendment in heard.pending:
            if amendment.sequence not in self._told.changes:
                self._control(Change(amendment=amendment))
                self._told.changes.add(amendment.sequence)

    @property
    def _can_be_cut_off(self) -> bool:
        """Before its first step a trainer has nothing to save, and an export begins anew from the last checkpoint."""
        is_free = self._end is None and (not self._has_trained or self._phase == "exporting")
        return is_free and self._is_all_shipped

    def _control(self, message: Order | Change) -> None:
        with (self.folder / CONTROL).open("a") as file:
            file.write(message.model_dump_json() + "\n")

    def _lose_patience(self) -> None:
        """Kill a trainer that is silent, stuck, or does not obey in time. That counts as a death.

        One that is told to keep what it has measures it and asks its prompts before it saves, which takes as long as it takes.
        """
        assert self.trainer is not None
        now, limits = self._awake.look(), self.host.settings
        deadline = limits.silence_seconds("saving" if self._what == "saving" else self._phase)
        silent = max(now - self._last_line, self._idle_seconds) > deadline
        obeys = not self._shut_down and ("saving" in (self._phase, self._what) or self._phase == "exporting")
        late = self._told.word is Word.PAUSE and now - self._told.since > limits.stop_seconds
        lingering = self._end is not None and now - self._ended_at > END_SECONDS
        if silent or (late and not obeys) or lingering:
            words = f"It was told to end, had not done so {limits.stop_seconds:g} seconds later, and was killed."
            if silent:
                words = f"It was killed, since nothing had moved in it for {deadline:g} seconds."
            self._killed_why, self._killed_at = words, time.monotonic()
            log.warning("run %s: %s", self.token.run_id, self._killed_why)
            self.trainer.kill(wait=False)  # the next turns see its end

    def _reap(self, code: int) -> None:
        """All is shipped, since nothing new was there after its end: enter what follows."""
        if not self._is_all_shipped:
            return  # a full batch was shipped: the rest goes first
        with self.host.transaction() as session:
            state = runs.reap(session, self.token, self._ending(code), self.host.limits)
        log.info("run %s: attempt %s ended, the run is %s", self.token.run_id, self.token.attempt, state)
        self.doing = Doing.OVER

    def _ending(self, code: int) -> runs.Ending:
        if self._end is None and self._shut_down:
            return runs.Ending(Outcome.PAUSED)  # it was still loading, or too slow: no fault of the run's
        if self._end is None and code == disks.EXIT_CODE:
            full = Problem("disk_full", "The disk is full: its trainer could write nothing more.", hint=disks.HINT)
            return runs.Ending(Outcome.FAILED, full)
        if self._end is None and code == -ENDED_BY:
            return runs.Ending(Outcome.FAILED, endless().own)
        if self._end is None:
            how = self._killed_why or how_it_died(code)
            return runs.Ending(None, Problem("died", how, hint="Read the end of the log."))
        cause = self._end.get("cause")
        return runs.Ending(Outcome(self._end["outcome"]), told_first(cause) if cause else None)

    def warn(self, of: str, words: str) -> None:
        """Tell who follows the run, once for as long as there is something to warn of."""
        if not words:
            self._warned_of.discard(of)
        elif of not in self._warned_of:
            with self.host.transaction() as session:
                emit(session, runs.hold(session, self.token), EventKind.LOG, {"level": "warning", "text": words})
            self._warned_of.add(of)

    # ---- the host's shutdown -------------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """Ask for a checkpoint within the deadline; without a trainer the next turn gives the run back."""
        if self._shut_down:
            return
        self._shut_down = True
        if self.trainer is not None:
            self.trainer.terminate()
            self._told.word, self._told.since = Word.PAUSE, self._awake.look()


def told_first(cause: Mapping[str, Any]) -> Problem:
    """What a trainer says of its failure; of several problems the first, which says more than that there are some."""
    first, *others = cause.get("problems") or [cause]
    more = f"The log names {len(others)} more." if others else ""
    hint = " ".join(filter(None, (first.get("hint"), more)))
    return Problem(first["code"], first["message"], first.get("where", ""), hint)


def cause_of(error: Exception) -> Problem:
    """What a person is told of an error that ended an attempt outside its trainer."""
    if isinstance(error, StudioError):
        return error.own
    if disks.is_full(error):
        return Problem("disk_full", "The disk of the worker host is full.", hint=disks.HINT)
    message = f"The worker host could not go on: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return Problem("worker", message, hint="Read the log of the supervisor; then resume.")


def how_it_died(code: int) -> str:
    """An exit code in words."""
    if code == -signal.SIGKILL:
        words = "It was killed, most often because the machine ran out of memory."
    elif code == -signal.SIGABRT:
        words = "It was aborted by a library, most often because the machine ran out of memory."
    elif code < 0:
        words = f"It was ended by signal {-code}."
    else:
        words = f"It ended with code {code} and left no word."
    return words
