"""Pause, stop and keep in every phase of a run: it rests within ten seconds, and the accelerator is free within fifteen.

Phases are made long by what makes them long in life: a hub that does not answer, a disk that does not, many rows, an
endless run. No doorbell rings, and the host looks as seldom as it does by default. A run takes a trainer of its own, so the
short form takes a third of the phases × actions that need one; `STUDIO_FAULTS=all` takes them all. What the names promise is
what the long form's figures are held to, on a machine with nothing else to do; the assertions bear four times that, since
other tests may keep the machine busy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import JsonValue

from backend.core import journal, runs
from backend.core.errors import Conflict
from backend.core.models import State
from tests.support.figures import IS_LONG, Note
from tests.support.hosts import Lab, write_rows
from tests.support.labs import USUAL, MakeLab
from worker.trainer.process import lock_name

REST_SECONDS, FREE_SECONDS = 10.0, 15.0
BUSY = 4.0
"""A machine that other tests keep busy takes longer, and that much is asserted; the figures' goals are those above."""
PATIENCE_SECONDS = 300.0
STUCK = "stuck"
"""A base model on a disk that hangs."""
ENDLESS: dict[str, Any] = {"max_steps": 100_000, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
QUIET: dict[str, Any] = {"prompts": [], "eval_steps": 90_000, "sample_steps": 90_000}
QUESTIONS: list[JsonValue] = [f"What does owl {number} eat?" for number in range(16)]


def pause(lab: Lab, run_id: UUID) -> None:
    with lab.sessions.begin() as session:
        runs.pause(session, run_id)


def stop(lab: Lab, run_id: UUID, *, keep: bool) -> None:
    with lab.sessions.begin() as session:
        runs.stop(session, run_id, keep=keep)


ACTIONS: dict[str, tuple[Callable[[Lab, UUID], None], State]] = {
    "pause": (pause, State.PAUSED),
    "discard": (partial(stop, keep=False), State.STOPPED),
    "keep": (partial(stop, keep=True), State.STOPPED),
}


@dataclass(frozen=True)
class Phase:
    """How to launch a run that stays in a phase, what tells that it is there, and what holds it up there meanwhile."""

    launch: Callable[[MuteLab], UUID]
    is_there: Callable[[MuteLab, UUID], bool]
    go_on: Callable[[Lab], None] = lambda _lab: None
    """What lets a run go on that was told to keep what it has: that may need the rest of its phase."""
    hindrance: Callable[[Lab], AbstractContextManager[None]] = lambda _lab: nullcontext()


def launching(*, base: str = "tiny", rows: str = "owls", **changes: dict[str, Any]) -> Callable[[Lab], UUID]:
    groups = {"training": ENDLESS, "evaluation": QUIET, "saving": {"save_steps": 90_000}}
    merged = {name: groups[name] | changes.get(name, {}) for name in groups}
    return lambda lab: lab.launch(base=base, rows=rows, **merged)


def in_phase(name: str) -> Callable[[Lab, UUID], bool]:
    """The trainer told last that this is what it does."""

    def look(lab: Lab, run_id: UUID) -> bool:
        with lab.sessions.begin() as session:
            told = [event.data for event in journal.events(session, run_id, limit=10_000) if event.kind == "phase"]
            return bool(told) and told[-1]["phase"] == name

    return look


def at_work_on(what: str) -> Callable[[Lab, UUID], bool]:
    """The trainer is in the midst of a part that it measures."""
    return lambda lab, run_id: lab.run(run_id).progress.get("what") == what


class MuteHub:
    """Takes connections and never answers."""

    def __init__(self, server: socket.socket) -> None:
        self.server, self.callers = server, list[socket.socket]()
        server.setblocking(False)

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[MuteHub]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            hub = cls(server)
            try:
                yield hub
            finally:
                for caller in hub.callers:
                    caller.close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.getsockname()[1]}"

    def takes_a_call(self) -> bool:
        """Whether somebody called who was not taken before."""
        with contextlib.suppress(BlockingIOError):
            self.callers.append(self.server.accept()[0])
            return True
        return False

    def drain(self) -> None:
        """Take whoever has called by now: a later call is of somebody else."""
        while self.takes_a_call():
            pass


@dataclass
class MuteLab(Lab):
    """A host's lab whose hub never answers."""

    hub: MuteHub = field(kw_only=True)


def launch_towards_the_hub(lab: MuteLab) -> UUID:
    """Who called for the run before is not to be taken for a caller of this one."""
    lab.hub.drain()
    return launching(base="somebody/far-away")(lab)


def is_fetching(lab: MuteLab, run_id: UUID) -> bool:
    """The run is held, and somebody waits for the hub's answer."""
    return lab.hub.takes_a_call() and lab.run(run_id).attempt == 1


def has_trained(lab: Lab, run_id: UUID) -> bool:
    return lab.run(run_id).step >= 3


def is_saving(lab: Lab, run_id: UUID) -> bool:
    return any((lab.home / "runs" / str(run_id)).glob("attempt-*/checkpoints/.tmp-*"))


def is_asking(lab: Lab, run_id: UUID) -> bool:
    """The second of many answers is under way. The questions came in mid-run: before the first step nothing is lost."""
    with lab.sessions.begin() as session:
        answers = [sample for sample in journal.samples(session, run_id).samples if sample.step > 0]
    return bool(answers)


def launch_with_questions(lab: Lab) -> UUID:
    run_id = launching(evaluation={"sample_steps": 40, "max_new_tokens": 150})(lab)
    with lab.sessions.begin() as session:
        runs.amend(session, run_id, "evaluation.prompts", QUESTIONS, by=None)
    return run_id


def tokenizer_of(lab: Lab) -> Path:
    return lab.home / "models" / STUCK / "tokenizer.json"


def is_stuck(lab: Lab, _run_id: UUID) -> bool:
    """Its trainer waits for the tokenizer: by then it tells that it loads, and has looked at the folder."""
    locks = Path("/proc/locks").read_text().splitlines()
    return any("BREAKING" in line and f":{tokenizer_of(lab).stat().st_ino} " in line for line in locks)


@contextmanager
def hanging_tokenizer(lab: Lab) -> Iterator[None]:
    """Whoever opens it waits, as on a network disk that hangs: the kernel asks who has a lease on the file to give it back, and
    nobody does. To who only looks at the folder it is a file as any other; a pipe would be refused before it is opened."""
    with tokenizer_of(lab).open("rb") as file:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # as which the kernel asks: it ends no process that ignores it
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield


def launch_towards_a_stuck_export(lab: Lab) -> UUID:
    """An export hashes the rows once more: by then their disk hangs, as that of the tokenizer does where loading is stuck."""
    rows, whole = lab.home / "datasets" / "hanging.parquet", lab.home / "datasets" / "whole.parquet"
    write_rows(whole)
    whole.replace(rows)
    run_id = launching(rows="hanging", training={"max_steps": 300})(lab)
    lab.wait(partial(in_phase("training"), lab, run_id), "the run to have read its rows", PATIENCE_SECONDS)
    pipe = rows.with_name("pipe")
    os.mkfifo(pipe)
    pipe.replace(rows)
    return run_id


def mend_the_disk(lab: Lab) -> None:
    """Whoever waits for the rows gets an answer, as soon as somebody waits."""
    rows = lab.home / "datasets" / "hanging.parquet"

    def answered() -> bool:
        with contextlib.suppress(OSError):
            os.close(os.open(rows, os.O_WRONLY | os.O_NONBLOCK))
            return True
        return False

    lab.wait(answered, "the export to read its rows", PATIENCE_SECONDS)


EVERY_STEP = {"eval_share": 0.5, "eval_steps": 1}
PHASES = {
    "queued": Phase(launching(), lambda _lab, _run_id: True),
    "fetching": Phase(launch_towards_the_hub, is_fetching),
    "loading": Phase(launching(base=STUCK), is_stuck, hindrance=hanging_tokenizer),
    "preparing": Phase(launching(rows="many"), in_phase("preparing")),
    "training": Phase(launching(), has_trained),
    "evaluating": Phase(launching(rows="some", evaluation=EVERY_STEP), at_work_on("evaluating")),
    "sampling": Phase(launch_with_questions, is_asking),
    "saving": Phase(launching(saving={"save_steps": 1}), is_saving),
    "exporting": Phase(launch_towards_a_stuck_export, in_phase("exporting"), mend_the_disk),
}
CHEAP = ("queued", "fetching")
"""Phases before a trainer was started."""
CELLS = [
    (phase, action)
    for row, phase in enumerate(PHASES)
    for column, action in enumerate(ACTIONS)
    if IS_LONG or phase in CHEAP or (row + column) % len(ACTIONS) == 0
]


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Iterator[MuteLab]:
    """One host for all; the hub that it asks takes connections and never answers."""
    with make_lab() as made, MuteHub.listening() as hub:
        lab = MuteLab(made.home, made.database_url, made.redis_url, made.engine, hub=hub)
        lab.environment |= USUAL | {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0"}
        shutil.copytree(lab.home / "models" / "tiny", lab.home / "models" / STUCK)
        write_rows(lab.home / "datasets" / "many.parquet", 40_000)
        write_rows(lab.home / "datasets" / "some.parquet", 4_000)
        yield lab


def test_a_hub_that_never_answers_takes_each_caller_once_and_none_twice() -> None:
    with MuteHub.listening() as hub:
        where = hub.server.getsockname()
        with socket.create_connection(where), socket.create_connection(where):
            hub.drain()
            assert (len(hub.callers), hub.takes_a_call()) == (2, False)
            with socket.create_connection(where):
                assert (hub.takes_a_call(), hub.takes_a_call()) == (True, False)


@pytest.fixture(scope="module")
def host(lab: Lab) -> Iterator[None]:
    with lab.host():
        yield


def is_free(folder: Path) -> bool:
    """Whether nobody holds the accelerator: the kernel's lock tells, however the holder ended."""
    with open(folder / lock_name("cpu"), "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("action", ACTIONS)
def test_a_queued_run_rests_at_once_though_no_worker_is_there(lab: MuteLab, action: str) -> None:
    act, state = ACTIONS[action]
    run_id = PHASES["queued"].launch(lab)
    act(lab, run_id)
    assert lab.run(run_id).state == state


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(("phase", "action"), [cell for cell in CELLS if cell[0] != "queued"])
def test_a_run_rests_within_ten_seconds_and_frees_its_accelerator(
    lab: MuteLab, phase: str, action: str, figure: Note
) -> None:
    with launched(lab, phase) as run_id:
        lab.wait(partial(PHASES[phase].is_there, lab, run_id), f"the run to be {phase}", PATIENCE_SECONDS)
        rested, freed = rest(lab, run_id, phase, action)
    figure(f"pause, stop or keep while {phase}: the run rests", rested, "s", REST_SECONDS)
    figure(f"pause, stop or keep while {phase}: the accelerator is free", freed, "s", FREE_SECONDS)


@contextmanager
def launched(lab: MuteLab, phase: str) -> Iterator[UUID]:
    """The run does not outlast its test, which others wait behind."""
    with PHASES[phase].hindrance(lab):
        run_id = PHASES[phase].launch(lab)
        try:
            yield run_id
        finally:
            with contextlib.suppress(Conflict):
                stop(lab, run_id, keep=False)


def rest(lab: Lab, run_id: UUID, phase: str, action: str) -> tuple[float, float]:
    """Act, and see that it had its effect in time: seconds until the run rested, and until the accelerator was free."""
    act, state = ACTIONS[action]
    told = time.monotonic()
    act(lab, run_id)
    if action == "keep":
        PHASES[phase].go_on(lab)
    run = lab.wait_for(run_id, state, seconds=REST_SECONDS * BUSY)
    rested = time.monotonic() - told
    lab.wait(partial(is_free, lab.home / "run"), "the accelerator to be free", FREE_SECONDS * BUSY)
    freed = time.monotonic() - told
    assert (run.crashes, run.lease_until, run.holder) == (0, None, None)
    assert (run.discarded_at is not None) == (action == "discard")
    return rested, freed
