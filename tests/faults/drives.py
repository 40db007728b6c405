"""A real run, driven into the fault that brings out one kind of bug, and what it left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from psycopg.conninfo import conninfo_to_dict

from backend.core import runs
from backend.core.assignment import JOURNAL
from backend.core.models import State
from backend.core.settings import Settings
from tests.faults.checker import DYING_SECONDS, Violation, check
from tests.faults.history import History, Leftover, Struck, Watcher, collect
from tests.faults.story import ACTIVE, RESTS
from tests.faults.trace import validate
from tests.faults.words import AMENDED_FIELD
from tests.support.hosts import FAST, Lab
from tests.support.links import Connection, Link
from tests.support.processes import is_alive, processes_of, wait_until
from worker.trainer.process import lock_name

Program = Sequence[str]
RECIPE: dict[str, Any] = {
    "training": {"max_steps": 40},
    "evaluation": {"prompts": [], "eval_steps": 1000, "sample_steps": 1000},
    "saving": {"save_steps": 4},
}
SHORT = RECIPE | {"training": {"max_steps": 3}}
STRIKE_STEP = 6
ABANDONED_SECONDS = 25.0
"""A run that has been queued for so long beside an idle host will not be taken any more."""
ORPHAN_SECONDS = 10.0
DEAF_SECONDS = 10.0
"""Whoever has not paused by then has not heard that it is to."""
ENDING_SECONDS = 30.0
PATIENCE_SECONDS = 300.0
"""How long a busy machine may take for what is sure to come."""


def broken_promises(lab: Lab, *accepted: UUID, struck: Sequence[Struck] = ()) -> list[Violation]:
    """What the checkers say of rows, journals and files that a lab's runs left behind, once they rest. Nobody looked at
    processes meanwhile, or followed events."""
    history = collect(lab.home, lab.database_url, struck=struck, accepted=map(str, accepted))
    return [*check(history), *validate(history, float(FAST["STUDIO_LEASE_SECONDS"]))]


def kill_trainer(run_id: UUID, attempt: int, process: int) -> Struck:
    """SIGKILL, as it is noted in a history."""
    os.kill(process, signal.SIGKILL)
    return Struck(time.time(), 1, 0, "trainer.kill", "training", f"trainer {process} of {run_id}/{attempt}")


@dataclass
class Drive:
    """A lab, the program of its hosts, the look at their processes, and what was done to its runs."""

    lab: Lab
    program: Program
    struck: list[Struck] = field(default_factory=list)
    beside: list[UUID] = field(default_factory=list)
    """Other runs that were launched."""
    watcher: Watcher = field(init=False)

    def __post_init__(self) -> None:
        self.watcher = Watcher(self.lab.home)
        self.watcher.start()

    @contextmanager
    def run_in_training(self) -> Iterator[tuple[UUID, subprocess.Popen[bytes]]]:
        """A host and its run, in mid-training."""
        with self.lab.host("a", self.program) as host:
            run_id = self.lab.launch(**RECIPE)
            self.lab.wait_for_step(run_id, STRIKE_STEP, PATIENCE_SECONDS)
            yield run_id, host

    def rest(self, run_id: UUID) -> None:
        """Until the run rests, or is queued and forgotten."""
        queued_since = time.monotonic()
        while (state := self.lab.run(run_id).state) not in RESTS:
            queued_since = queued_since if state not in ACTIVE else time.monotonic()
            if time.monotonic() - queued_since > ABANDONED_SECONDS:
                return
            time.sleep(0.05)

    def history(self, run_id: UUID) -> History:
        """What is there once everything had the time to end."""
        with suppress(AssertionError):
            wait_until(lambda: not processes_of(self.lab.home), seconds=ENDING_SECONDS)
        left = [Leftover("process", str(process)) for process in processes_of(self.lab.home)]
        home, url, samples = self.lab.home, self.lab.database_url, self.watcher.stop()
        accepted = [str(each) for each in (*self.beside, run_id)]
        return collect(home, url, samples=samples, struck=self.struck, accepted=accepted, leftovers=left)


def kill_the_trainer(drive: Drive) -> UUID:
    """SIGKILL in mid-run: the run is queued, taken again and finished."""
    with drive.run_in_training() as (run_id, _host):
        drive.struck.append(kill_trainer(run_id, 1, drive.lab.trainer_of(run_id)))
        drive.rest(run_id)
    return run_id


def lose_an_answer(drive: Drive) -> UUID:
    """A batch is committed, and the connection breaks before Postgres' answer arrives: it is sent again."""
    with forgetful_link(drive.lab) as link, drive.run_in_training() as (run_id, _host):
        link.lose_answer_to(link.STORING)
        drive.rest(run_id)
    return run_id


def lose_the_answer_to_a_claim(lab: Lab) -> tuple[UUID, UUID]:
    """Two runs are queued. The first claim of their only host is committed, and the host never learns of it."""
    first, second = lab.launch(**SHORT), lab.launch(**SHORT)
    with forgetful_link(lab) as link:
        link.lose_answer_to(link.CLAIMING)
        with lab.host():
            for run_id in (first, second):
                lab.wait_for(run_id, State.SUCCEEDED, seconds=PATIENCE_SECONDS)
    return first, second


def freeze_the_host(drive: Drive) -> UUID:
    """A host stands still past its lease, another one takes its run; then it wakes, and would write on."""
    with drive.run_in_training() as (run_id, first):
        trainer = psutil.Process(drive.lab.trainer_of(run_id))
        first.send_signal(signal.SIGSTOP)
        trainer.suspend()
        with drive.lab.host("b", drive.program):
            drive.lab.wait(lambda: drive.lab.run(run_id).begun == 2, "the second host to begin", PATIENCE_SECONDS)
            told = drive.lab.run(run_id).seq
            first.send_signal(signal.SIGCONT)
            trainer.resume()
            drive.lab.wait(
                lambda: not is_alive(trainer) or drive.lab.run(run_id).seq > told + 3,
                "the first one's next word",
                PATIENCE_SECONDS,
            )
            first.kill()
            drive.rest(run_id)
    return run_id


def wake_the_host(drive: Drive) -> UUID:
    """A host stands still past its lease, and another one with an accelerator of its own takes its run; then it wakes, and has
    to find out that it is over."""
    lab = drive.lab
    with lab.host("a", drive.program) as first:
        run_id = lab.launch(**RECIPE | {"training": {"max_steps": 100_000}})
        lab.wait_for_step(run_id, STRIKE_STEP, PATIENCE_SECONDS)
        trainer = psutil.Process(lab.trainer_of(run_id))
        first.send_signal(signal.SIGSTOP)
        with home_of_its_own(lab, "b"), lab.host("b", drive.program):
            lab.wait(lambda: lab.run(run_id).begun == 2, "the second host to begin", PATIENCE_SECONDS)
            lab.wait_for_step(run_id, lab.run(run_id).step + 2, PATIENCE_SECONDS)
            first.send_signal(signal.SIGCONT)
            with suppress(psutil.TimeoutExpired):
                trainer.wait(DYING_SECONDS + 2)
            with lab.sessions.begin() as session:
                runs.stop(session, run_id, keep=False)
            drive.rest(run_id)
    return run_id


def preempt_the_host(drive: Drive) -> UUID:
    """SIGTERM in mid-run, long before a checkpoint is due, as to a machine that is taken away; then another one comes."""
    lab = drive.lab
    with lab.host("a", drive.program) as host:
        run_id = lab.launch(**RECIPE | {"saving": {"save_steps": 1000}})
        lab.wait_for_step(run_id, STRIKE_STEP, PATIENCE_SECONDS)
        told = time.time()
        host.terminate()
        host.wait(PATIENCE_SECONDS)
        drive.struck.append(Struck(told, 1, 0, "supervisor.preempt", "training", "supervisor-a", healed=time.time()))
    with lab.host("b", drive.program):
        drive.rest(run_id)
    return run_id


def pause_the_run(drive: Drive) -> UUID:
    """A person's word in mid-training, long before the last step."""
    lab = drive.lab
    with lab.host("a", drive.program):
        run_id = lab.launch(**RECIPE | {"training": {"max_steps": 100_000}})
        lab.wait_for_step(run_id, STRIKE_STEP, PATIENCE_SECONDS)
        with lab.sessions.begin() as session:
            runs.pause(session, run_id)
        with suppress(AssertionError):
            lab.wait(lambda: lab.run(run_id).state in RESTS, "its rest", DEAF_SECONDS)
        if lab.run(run_id).state not in RESTS:
            with lab.sessions.begin() as session:
                runs.stop(session, run_id, keep=False)
            drive.rest(run_id)
    return run_id


def change_the_rate(drive: Drive) -> UUID:
    """The learning rate is changed in mid-training, and then the trainer is killed, before the change is in any
    checkpoint. Another run was left as it was."""
    lab = drive.lab
    with lab.host("a", drive.program):
        drive.beside.append(lab.launch(**RECIPE))
        lab.wait_for(drive.beside[0], State.SUCCEEDED, seconds=PATIENCE_SECONDS)
        run_id = lab.launch(**RECIPE | {"saving": {"save_steps": 1000}})
        lab.wait_for_step(run_id, STRIKE_STEP, PATIENCE_SECONDS)
        with lab.sessions.begin() as session:
            runs.amend(session, run_id, AMENDED_FIELD, 1e-4, by=None)
        lab.wait_for_step(run_id, lab.run(run_id).step + STRIKE_STEP, PATIENCE_SECONDS)
        drive.struck.append(kill_trainer(run_id, 1, lab.trainer_of(run_id)))
        drive.rest(run_id)
    return run_id


@contextmanager
def home_of_its_own(lab: Lab, name: str) -> Iterator[None]:
    """For a host that is started meanwhile: it shares the storage alone, as another machine does."""
    home = lab.home / name
    (home / "run").mkdir(parents=True)
    (home / "run" / "place").write_text(Settings(home=lab.home).place())
    for folder in ("runs", "datasets", "models", "logs"):
        (home / folder).symlink_to(lab.home / folder)
    before = dict(lab.environment)
    lab.environment["STUDIO_HOME"] = str(home)
    yield
    lab.environment = before


def kill_the_supervisor(drive: Drive) -> UUID:
    """SIGKILL of the supervisor alone: its trainer, which waits for the accelerator, is to die with it; later the run goes on."""
    lab = drive.lab
    with lab.host("a", drive.program) as host:
        with taken_accelerator(lab.home):
            run_id = lab.launch(**RECIPE)
            journal = lab.home / "runs" / str(run_id) / "attempt-1" / JOURNAL
            lab.wait(journal.exists, "a trainer with its assignment", PATIENCE_SECONDS)
            trainer = psutil.Process(lab.trainer_of(run_id))
            host.kill()
            host.wait()
            with suppress(psutil.TimeoutExpired):
                trainer.wait(ORPHAN_SECONDS)
        with lab.host("a", drive.program):
            drive.rest(run_id)
    return run_id


@contextmanager
def taken_accelerator(home: Path) -> Iterator[None]:
    """Somebody else computes on it: a trainer waits, and costs nothing."""
    path = home / "run" / lock_name("cpu")
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


DRIVES: dict[str, Callable[[Drive], UUID]] = {
    "lost": kill_the_trainer,
    "doubled": lose_an_answer,
    "stale": freeze_the_host,
    "torn": kill_the_trainer,
    "orphan": kill_the_supervisor,
    "forgotten": kill_the_trainer,
    "spared": wake_the_host,
    "hurried": preempt_the_host,
    "deaf": pause_the_run,
    "heedless": change_the_rate,
}


class ForgetfulLink(Link):
    """To Postgres. The answer to the commit behind a statement is lost on the way, once, and the connection broken."""

    COMMIT, STORING, CLAIMING = b"COMMIT", b'COPY "points"', b"INSERT INTO attempts"
    BREAK_SECONDS = 0.3

    def __init__(self, database_url: str) -> None:
        about = conninfo_to_dict(database_url)
        super().__init__(Path(str(about["host"]), f".s.PGSQL.{about.get('port') or 5432}"))
        self.url = f"postgresql://{about['user']}:{about['password']}@127.0.0.1:{self.port}/{about['dbname']}"
        self._awaited = b""
        self._inside: set[Connection] = set()

    def lose_answer_to(self, statement: bytes) -> None:
        self._awaited = statement

    async def _look(self, connection: Connection, data: bytes) -> None:
        if self._awaited and self._awaited in data:
            self._inside.add(connection)
        if self.COMMIT in data and connection in self._inside:
            self._awaited, connection.is_deaf = b"", True
            self._inside.clear()
            self._loop.call_later(self.BREAK_SECONDS, connection.abort)


@contextmanager
def forgetful_link(lab: Lab) -> Iterator[ForgetfulLink]:
    """Between Postgres and the lab's hosts."""
    link = ForgetfulLink(lab.database_url)
    lab.environment["DATABASE_URL"] = link.url
    try:
        yield link
    finally:
        link.close()
