"""Real bugs, planted at run time: `python -m tests.faults.planted NAME` is a worker host's supervisor that has one.

Each takes one wall away that the design rests on. The checker must tell every one of them from what it did to a run, knowing
nothing of it; a checker that was never seen to fail proves nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULE = "tests.faults.planted"
TRAINER = "worker.trainer"
CUT_BYTES = 8


def nothing() -> None:
    """This side is as it should be."""


@dataclass(frozen=True)
class Bug:
    """What is taken away, in the supervisor and in its trainers."""

    supervisor: Callable[[], None] = nothing
    trainer: Callable[[], None] = nothing


# ---- in the supervisor -----------------------------------------------------------------------------------------------


def queue_it_nowhere() -> None:
    """A run whose attempt ended is queued for a storage that no host has: nobody ever takes it again."""
    from backend.core import runs

    enter_queued = runs.enter_queued

    def forgetful(session: Any, run: Any) -> None:
        enter_queued(session, run)
        run.place = "nowhere" if run.attempt else run.place

    vars(runs)["enter_queued"] = forgetful


def store_it_unseen() -> None:
    """The journal's offset is advanced without a look at where it stands, even for an attempt that was closed; nor is it asked
    whether a step was told before."""
    from sqlalchemy import update

    from backend.core import journal
    from backend.core.models import Attempt

    def advance(session: Any, run: Any, batch: journal.Batch) -> None:
        of_attempt = (Attempt.run_id == run.id, Attempt.number == batch.attempt)
        session.execute(update(Attempt).where(*of_attempt).values(journal_offset=batch.end))

    vars(journal)["_advance"] = advance
    vars(journal)["_untold"] = lambda _session, _run, lines: lines


def hold_whatever_it_is() -> None:
    """The fence asks whether anybody holds the run, not whether it is this attempt; and journals are never closed."""
    from sqlalchemy import select

    from backend.core import runs
    from backend.core.models import Run

    def hold(session: Any, token: runs.Token) -> Run:
        held = select(Run).where(Run.id == token.run_id, Run.lease_until.is_not(None)).with_for_update()
        run: Run = session.execute(held.execution_options(populate_existing=True)).scalar_one()
        return run

    vars(runs)["hold"] = hold
    store_it_unseen()


def forget_what_was_saved() -> None:
    """Whoever takes a run over finds no checkpoint of it, and trains it anew from its first step."""
    from worker import holding, picking

    def find_nothing(*_where: Any) -> picking.Pick:
        return picking.Pick(None)

    vars(holding)["pick"] = find_nothing


def spare_the_trainer() -> None:
    """Who finds out that its run is another's lets its trainer go on."""
    from worker import holding

    def leave(held: holding.Holding) -> None:
        held.doing = holding.Doing.OVER

    holding.Holding._leave = leave  # type: ignore[assignment, method-assign]


def hear_nothing() -> None:
    """That a run is to pause is read, and passed on to nobody."""
    from worker import holding

    tell = holding.Holding._tell

    def tell_the_rest(held: holding.Holding, heard: Any) -> None:
        if heard.intent != "pause":
            tell(held, heard)

    holding.Holding._tell = tell_the_rest  # type: ignore[assignment, method-assign]


def forget_what_was_changed() -> None:
    """Whoever takes a run over is not told what people changed of it."""
    from backend.core import history

    begin = history.begin

    def begin_plainly(*what: Any, **how: Any) -> list[Any]:
        begin(*what, **how)
        return []

    vars(history)["begin"] = begin_plainly


# ---- in the trainer --------------------------------------------------------------------------------------------------


def cut_what_is_published() -> None:
    """A file of each checkpoint is shorter than its manifest says, as after a write that was not synced."""
    from backend.core.checkpoints import publish
    from worker.trainer import checkpoints

    def publish_cut(temporary: Path, final: Path) -> None:
        publish(temporary, final)
        state = final / "optimizer.pt"
        state.write_bytes(state.read_bytes()[:-CUT_BYTES])

    vars(checkpoints)["publish"] = publish_cut


def end_unsaved() -> None:
    """Told that its machine is taken away, a trainer ends where it stands."""
    from worker.trainer import control

    def listen(_channel: control.Channel) -> None:
        """SIGTERM does what it does by default."""

    control.Channel.listen = listen  # type: ignore[assignment, method-assign]


def outlive_the_parent() -> None:
    """No signal from the kernel, no look at the pipe: the trainer does not learn of its supervisor's death."""
    from worker.trainer import __main__, process

    vars(__main__)["die_with_parent"] = nothing
    vars(process)["watch_stdin"] = nothing


BUGS = {
    "none": Bug(),
    "lost": Bug(supervisor=queue_it_nowhere),
    "doubled": Bug(supervisor=store_it_unseen),
    "stale": Bug(supervisor=hold_whatever_it_is),
    "torn": Bug(trainer=cut_what_is_published),
    "orphan": Bug(trainer=outlive_the_parent),
    "forgotten": Bug(supervisor=forget_what_was_saved),
    "spared": Bug(supervisor=spare_the_trainer),
    "hurried": Bug(trainer=end_unsaved),
    "deaf": Bug(supervisor=hear_nothing),
    "heedless": Bug(supervisor=forget_what_was_changed),
}


class Instead(subprocess.Popen[bytes]):
    """Starts another program where a trainer is to be started. Its last argument tells it so."""

    program: tuple[str, ...] = ()

    def __init__(self, command: list[str], **options: Any) -> None:
        if command[-1] == TRAINER:
            command = [*command[:-1], *self.program, TRAINER]
        super().__init__(command, **options)


def start_trainers_as(*program: str) -> None:
    """From here on this process starts that module, with these arguments, for each trainer."""
    Instead.program = program
    vars(subprocess)["Popen"] = Instead


def main(name: str, is_trainer: bool) -> int:
    if is_trainer:
        from worker.trainer.__main__ import main as train

        BUGS[name].trainer()
        return train([])
    from worker import supervisor

    start_trainers_as(MODULE, name)
    BUGS[name].supervisor()
    supervisor.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], TRAINER in sys.argv))
