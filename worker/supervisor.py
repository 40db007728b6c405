"""The supervisor of a worker host: claim → take over → start a trainer → ship its journal → reap. `python -m worker.supervisor`.

One process, one main thread, which alone starts children (a parent-death signal fires when the *thread* that spawned
the child ends). It looks for work every few seconds by itself; a poke on its socket only makes it look at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Generic

from sqlalchemy import func, or_, text
from sqlalchemy import select as sql_select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from backend.core import db, queue, runs
from backend.core.bulk import end_frozen
from backend.core.errors import Conflict, Fenced
from backend.core.leases import LeaseWatch, Sign
from backend.core.models import Device, Run, Worker
from backend.core.settings import Settings, settings
from worker import devices, disks
from worker.holding import Doing, Holding
from worker.host import Host, is_outage
from worker.machine import machine
from worker.spares import Spares, make_sure_it_is_dead
from worker.sweep import Sweep

log = logging.getLogger(__name__)

OUTAGE_SECONDS = 1.0
"""Pause between tries to reach Postgres."""
UNDYING = "the trainer of %s was killed and has not ended yet: its accelerator stays locked until it has"


class Supervisor:
    def __init__(self, configured: Settings) -> None:
        self.settings = configured
        self.engine = db.engine(configured.database_url)
        self.host = Host(
            settings=configured,
            sessions=sessionmaker(self.engine, expire_on_commit=False),
            redis_url=configured.redis_url,
            name=configured.worker_name or socket.gethostname(),
            place=configured.place(),
            spares=Spares(configured),
        )
        self.driver = devices.Driver()
        self.devices = devices.found(configured.devices, self.driver)
        self.strangers: Mapping[str, tuple[devices.Occupant, ...]] = {}
        self.unanswered = ""
        """Why the driver could not be asked for strangers last; until it can, those of before count."""
        self.has_room = True
        self.sweep = Sweep(self.host)
        self.watch = Watched(self.engine, configured.lease_seconds, runs.leases)
        self.namesake = Watched(self.engine, configured.lease_seconds, self._signs_of_life)
        """Who has this host's name, for as long as this host does not have it."""
        self.holdings: dict[str, Holding] = {}
        self.over: dict[str, Holding] = {}
        """By device, whose trainer was killed and has not ended yet: it hangs in a driver, and locks the device meanwhile."""
        self.stopping = False
        self._looked = -configured.renew_seconds
        self._seat = seat(configured)
        self._said: set[tuple[str, ...]] = set()
        self._pokes = open_socket(poke_path(configured, self.host.name))

    # ---- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until SIGTERM, and then until every trainer has saved."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        while not self.stopping and not self._start():
            time.sleep(min(OUTAGE_SECONDS, self.settings.renew_seconds))  # often enough to have watched a namesake
        self._look_for_strangers()
        log.info("supervisor %s watches %s", self.host.name, ", ".join(device.title for device in self.devices))
        while not self.stopping or self.holdings:
            self._turn()
        self.host.spares.close()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _start(self) -> bool:
        """Register, and give up what this host held before it was restarted, once its trainers are dead."""
        try:
            if not self._take_name():
                return False
            with self.host.transaction() as session:
                held = session.execute(sql_select(Run.id, Run.attempt).where(Run.holder == self.host.name)).all()
            for run_id, attempt in held:
                self._clear(self.settings.run_folder(run_id, attempt))
            with self.host.transaction() as session:
                if self._own_row(session) is None:
                    return False
                freed = runs.free_own(session, self.host.name, self.host.limits)
        except DBAPIError as error:
            self._outage(error)
            return False
        if freed:
            log.info("gave up %s run(s) that this host held before", len(freed))
        return True

    def _take_name(self) -> bool:
        """Register. Whether this host may look for work: not while another one that has its name is alive."""
        silent = self.namesake.look()
        try:
            with self.host.transaction() as session:
                self._register(session, silent)
        except Conflict as error:
            self._say_once(("name",), str(error))
            return False
        self._say_once(("name",), "")
        self.namesake.forget()
        return True

    def _signs_of_life(self, session: Session) -> Sequence[datetime]:
        """The last one of this host's name."""
        return session.scalars(sql_select(Worker.seen_at).where(Worker.name == self.host.name)).all()

    def _say_once(self, of: tuple[str, ...], words: str) -> None:
        """Until it is over: there are no words then."""
        if words and of not in self._said:
            log.warning(words)
        (self._said.add if words else self._said.discard)(of)

    def _clear(self, folder: Path) -> None:
        """End what is left of an attempt. Nobody waits for ever for a trainer that cannot be killed: it is cut off."""
        if not make_sure_it_is_dead(folder):
            log.error(UNDYING, folder)

    def _turn(self) -> None:
        poked = self._wait()
        if self.stopping:
            self._tell_shutdown()
        elif not any(holding.is_loading for holding in self.holdings.values()):
            self.host.spares.keep()  # what a run waits for comes before what the next one may need
        try:
            for holding in list(self.holdings.values()):
                holding.turn(urgent=poked)
            self._forget_ended()
            if poked or time.monotonic() - self._looked >= self.settings.renew_seconds:
                self._look()
        except Exception as error:  # the end of this process would be the end of all its trainers
            if is_outage(error):
                self._outage(error)
            else:
                log.exception("a turn went wrong")
            time.sleep(OUTAGE_SECONDS)

    def _wait(self) -> bool:
        """Until the next shipping, or a poke. Returns whether somebody poked."""
        if self._pokes is None:
            time.sleep(self.settings.ship_seconds)
            return False
        ready, _, _ = select.select([self._pokes], [], [], self.settings.ship_seconds)
        with contextlib.suppress(BlockingIOError):
            while ready:
                self._pokes.recv(256)
        return bool(ready)

    def _outage(self, error: DBAPIError) -> None:
        """Trainers go on, unpublished. All that was watched before counts no more."""
        log.warning("Postgres cannot be reached: %s", reason(error))
        self.watch.forget()
        self.namesake.forget()

    def _forget_ended(self) -> None:
        for device in [device for device, holding in self.holdings.items() if holding.doing is Doing.OVER]:
            self.over[device] = self.holdings.pop(device)
        for device, over in list(self.over.items()):
            has_ended = over.trainer is None or over.trainer.exit_code is not None
            self._say_once((device, "over"), "" if has_ended else UNDYING % over.folder)
            if has_ended:
                del self.over[device]
                self.sweep.has_ended(over.folder.parent)
                self._looked = -self.settings.renew_seconds  # a device is free: look at once

    def _tell_shutdown(self) -> None:
        for holding in self.holdings.values():
            holding.shut_down()

    # ---- looking for work ----------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._looked = time.monotonic()
        expired = self.watch.look()
        self.has_room = disks.has_room(self.settings.folder("runs"))
        with self.host.transaction() as session:
            is_known = self._seen(session)
            runs.end_unheld(session, expired, self.host.limits)
            if expired and (ended := end_frozen(session)):
                log.warning("cut off who stood still in the midst of writing: Postgres' processes %s", ended)
        if not is_known and not self._take_name():
            return
        self.host.chores.start("hints", lambda: queue.publish(self.host.sessions, self.host.redis_url))
        for device in self.devices:
            if not self.stopping and self._is_free(device.name):
                self._claim(device.name, expired)
        self.host.chores.start("strangers", self._look_for_strangers)
        self.host.chores.start("sweep", self.sweep)
        self._warn()

    def _look_for_strangers(self) -> None:
        """Who else computes on this host's accelerators. None of them is shared unless its owner wants that."""
        if all(device.name == "cpu" for device in self.devices):
            return
        try:
            self.strangers, self.unanswered = self.driver.occupants(self.host.spares.taken), ""
        except devices.Unanswered as error:
            self.unanswered = str(error)

    def _is_free(self, device: str) -> bool:
        if device in self.holdings:
            return False
        hindrances = self._hindrances(device)
        for of, words in hindrances.items():
            self._say_once((device, of), words and f"no run is started on {device}: {words}")
        return not any(hindrances.values())

    def _hindrances(self, device: str) -> Mapping[str, str]:
        """What keeps a run from being started on a device, in words; nothing where it does not."""
        return {
            "space": "" if self.has_room else "The disk of the runs is full.",
            "driver": "" if self._is_shared(device) else self.unanswered,
            "occupants": devices.shared(device, self._occupants(device)),
        }

    def _is_shared(self, device: str) -> bool:
        return device == "cpu" or self.settings.share_devices

    def _occupants(self, device: str) -> Sequence[devices.Occupant]:
        """Who keeps a run from being started there: a trainer of ours that was killed and has not ended yet, and strangers,
        unless it is shared with them."""
        strangers = () if self._is_shared(device) else self.strangers.get(device, ())
        trainer = self.over[device].trainer if device in self.over else None
        own = () if trainer is None else (devices.Occupant(trainer.process.pid, "worker.trainer", 0),)
        return (*strangers, *own)

    def _warn(self) -> None:
        space = disks.low_on_space(self.settings.folder("runs"))
        for device, holding in self.holdings.items():
            with contextlib.suppress(Fenced):  # its next turn finds out that it is over
                holding.warn("space", space)
                holding.warn("strangers", devices.shared(device, self.strangers.get(device, ())))

    def _claim(self, device: str, expired: Sequence[runs.Lease]) -> None:
        """Take a run for a device that is free. What is held there all the same was claimed unheard, and goes back first."""
        with self.host.transaction() as session:
            if self._own_row(session) is None:
                return
            runs.free_own(session, self.host.name, self.host.limits, device=device)
            token = runs.claim(
                session,
                worker=self.host.name,
                device=device,
                place=self.host.place,
                lease_seconds=self.settings.lease_seconds,
                limits=self.host.limits,
                expired=expired,
            )
        if token is not None:
            log.info("claimed attempt %s of run %s for %s", token.attempt, token.run_id, device)
            self.holdings[device] = Holding(self.host, token, device)

    def _register(self, session: Session, silent: Sequence[datetime]) -> None:
        """Raises `Conflict` where somebody else has this name: two of one name would end each other's runs. `silent` are last
        signs of life that this host watched, unchanged, for one whole lease."""
        facts = {"pid": os.getpid(), "python": sys.version.split()[0], "host": socket.gethostname(), "seat": self._seat}
        facts |= {"cores": os.cpu_count(), "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")}
        now = func.clock_timestamp()
        worker = insert(Worker).values(name=self.host.name, place=self.host.place, facts=facts)
        fresh = {"place": self.host.place, "facts": facts, "started_at": now, "seen_at": now}
        is_ours = Worker.facts["seat"].astext == self._seat
        free = or_(is_ours, Worker.seen_at.in_(silent))
        upsert = worker.on_conflict_do_update(index_elements=["name"], set_=fresh, where=free)
        if session.execute(upsert.returning(Worker.name)).first() is None:
            raise self._taken(session.get_one(Worker, self.host.name))
        session.query(Device).where(Device.worker == self.host.name).delete()
        for each in self.devices:
            session.add(Device(worker=self.host.name, name=each.name, title=each.title, memory_bytes=each.memory_bytes))

    def _taken(self, other: Worker) -> Conflict:
        """Started again elsewhere, a host waits for as long: nobody can tell that the other one was itself."""
        host, pid = other.facts.get("host"), other.facts.get("pid")
        return Conflict(
            f"A worker host elsewhere has the name “{other.name}” (host {host}, process {pid}): this one takes no run until it "
            f"has seen that one silent for {self.settings.lease_seconds:g} s.",
            hint="Where both are to work, give each a name of its own: STUDIO_WORKER_NAME.",
        )

    def _own_row(self, session: Session) -> Worker | None:
        """This host's row, locked, so that its name stays its own within the transaction. None where another one has taken it:
        what is held by that name is then the other's."""
        worker = session.get(Worker, self.host.name, with_for_update=True)
        return worker if worker is not None and worker.facts.get("seat") == self._seat else None

    def _seen(self, session: Session) -> bool:
        """Tell that this host is alive. False where another one has taken its name meanwhile."""
        worker = self._own_row(session)
        if worker is not None:
            worker.seen_at = func.clock_timestamp()
            on = {each.name: self._occupants(each.name) for each in self.devices}
            strangers = {device: [asdict(each) for each in told] for device, told in on.items() if told}
            silent = [each.name for each in self.devices if self._hindrances(each.name)["driver"]]
            worker.facts = worker.facts | {"strangers": strangers, "silent": silent, "disk_full": not self.has_room}
        return worker is not None


class Watched(Generic[Sign]):
    """Leases, or what is judged like them, seen over one connection that is kept: when it breaks, what was seen before counts
    no more."""

    def __init__(self, engine: Engine, lease_seconds: float, read: Callable[[Session], Iterable[Sign]]) -> None:
        self._engine, self._watch, self._read = engine, LeaseWatch[Sign](lease_seconds), read
        self._connection: Connection | None = None
        self._postgres_started: object = None

    def look(self) -> Sequence[Sign]:
        """Those that stayed unchanged for one whole lease. Raises `DBAPIError` in an outage."""
        if self._connection is None:
            self.forget()
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            started = self._connection.execute(text("SELECT pg_postmaster_start_time()")).scalar_one()
            found = self._read(Session(self._connection))
        except SQLAlchemyError:
            self.forget()
            raise
        if started != self._postgres_started:
            self._watch.forget()
            self._postgres_started = started
        return self._watch.observe(time.monotonic(), found)

    def forget(self) -> None:
        self._watch.forget()
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                self._connection.invalidate()
                self._connection.close()
            self._connection = None


def reason(error: DBAPIError) -> str:
    return str(error.orig or error).strip().splitlines()[0]


# ---- pokes ---------------------------------------------------------------------------------------------------------


def poke_path(configured: Settings, name: str) -> Path:
    return configured.folder("run") / f"supervisor-{name}.sock"


def open_socket(path: Path) -> socket.socket | None:
    """Where pokes arrive. None where the path is too long for a socket: pokes only save time."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened.setblocking(False)
    path.unlink(missing_ok=True)
    try:
        opened.bind(str(path))
    except OSError as error:
        log.warning("no pokes will be heard at %s: %s", path, error)
        return None
    return opened


def poke(configured: Settings, name: str) -> bool:
    """Have the host's supervisor look for work at once. False where none listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as knock:
        knock.setblocking(False)
        try:
            knock.sendto(b"look", str(poke_path(configured, name)))
        except OSError:
            return False
    return True


def seat(configured: Settings) -> str:
    """Where `only_one` locks: whoever of our name was here before us has ended. A copied home or machine is another seat."""
    folder = configured.folder("run").stat()
    return f"{machine()}/{folder.st_dev}/{folder.st_ino}"


def only_one(configured: Settings, name: str) -> int:
    """Two supervisors of one name would free each other's runs: the second one waits until the first is gone."""
    descriptor = os.open(configured.folder("run") / f"supervisor-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    configured = settings()
    lock = only_one(configured, configured.worker_name or socket.gethostname())
    try:
        Supervisor(configured).run()
    finally:
        os.close(lock)


if __name__ == "__main__":
    main()
