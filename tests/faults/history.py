"""What a studio under fault left behind: rows, journals, what clients received, looks at the process table.

Plain data, gathered without any help of the product: rows as Postgres tells them, files as they lie on the disk. The checker
and the replay of the protocol read nothing else, and a history that was saved can be looked into days later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import psycopg
from psycopg import sql

from tests.support.processes import serves

Row = dict[str, Any]
Curves = list[tuple[str, int, float]]
"""The name, the step and the value of each point."""
TABLES = ("runs", "attempts", "events", "points", "buckets", "checkpoints", "artifacts", "audit")
STORED_AS = {"events": "run_events"}
ORDER = {
    "runs": ("id",),
    "attempts": ("run_id", "number"),
    "events": ("run_id", "seq"),
    "points": ("run_id", "name", "step"),
    "checkpoints": ("run_id", "created_at"),
    "artifacts": ("run_id", "created_at"),
    "audit": ("at", "id"),
}


@dataclass(frozen=True)
class Seen:
    """An event as a client received it, in its order of arrival."""

    at: float
    client: str
    run: str
    seq: int
    kind: str
    step: int | None
    data: Row


@dataclass(frozen=True)
class Sample:
    """A look at one process. `name`: trainer, spare, supervisor, celery, web, postgres, valkey, studio or other.

    `status` is alive, stopped or zombie. `at` and `started` are seconds since the epoch.
    """

    at: float
    pid: int
    started: float
    parent: int
    name: str
    run: str | None
    attempt: int | None
    device: str | None
    host: str | None
    status: str


@dataclass(frozen=True)
class Struck:
    """A fault. `target` names what was hit: a process, a connection or, of a torn checkpoint, its folder under the home.

    `healed` is when what it left behind was mended; none where there was nothing to mend.
    """

    at: float
    number: int
    seed: int
    kind: str
    phase: str
    target: str
    healed: float | None = None

    @property
    def until(self) -> float:
        """Until when it was felt."""
        return self.at if self.healed is None else self.healed


@dataclass(frozen=True)
class Said:
    """A word of a person that was answered with success, as the audit log calls it, with the value of a change."""

    run: str
    action: str
    value: float | None = None


@dataclass(frozen=True)
class Ended:
    """A part of the studio that ended though nobody stopped it, and when it had been started."""

    part: str
    started: float
    at: float


@dataclass(frozen=True)
class Leftover:
    """What should be gone and is there."""

    kind: Literal["process", "zombie", "descriptor", "file"]
    what: str


@dataclass(frozen=True)
class History:
    """`accepted` are the runs whose launch was answered with success. `readable` lists, of each folder that is published
    now, what is wrong with its bytes, and `read` the same of checkpoints that were read when they had just been published,
    and stayed so meanwhile. `reference` holds, of runs that have one, the curves of an undisturbed run. `clocks`
    tells by how many seconds a host's clock was ahead. Where nobody looked at processes, or followed runs, nothing is said of
    them: `is_watched` and `is_followed` tell that from a watcher that saw nothing."""

    runs: list[Row]
    attempts: list[Row]
    events: list[Row]
    points: list[Row]
    checkpoints: list[Row]
    artifacts: list[Row]
    journals: dict[tuple[str, int], list[Row]]
    seen: list[Seen]
    samples: list[Sample]
    struck: list[Struck]
    accepted: list[str]
    leftovers: list[Leftover]
    readable: dict[str, list[str]]
    buckets: list[Row] = field(default_factory=list)
    audit: list[Row] = field(default_factory=list)
    clocks: dict[str, float] = field(default_factory=dict)
    reference: dict[str, Curves] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    read: dict[str, list[str]] = field(default_factory=dict)
    words: list[Said] = field(default_factory=list)
    is_watched: bool = True
    is_followed: bool = True

    def of_run(self, run: str) -> History:
        """The part that is about one run; samples and strikes stay whole."""

        def mine(rows: list[Row]) -> list[Row]:
            return [row for row in rows if row["run_id"] == run]

        return replace(
            self,
            runs=[row for row in self.runs if row["id"] == run],
            attempts=mine(self.attempts),
            events=mine(self.events),
            points=mine(self.points),
            checkpoints=mine(self.checkpoints),
            artifacts=mine(self.artifacts),
            buckets=mine(self.buckets),
            journals={key: lines for key, lines in self.journals.items() if key[0] == run},
            seen=[each for each in self.seen if each.run == run],
        )

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        journals = {f"{run}/{attempt}": lines for (run, attempt), lines in self.journals.items()}
        path.write_text(json.dumps(asdict(replace(self, journals={})) | {"journals": journals}))


def load(path: Path) -> History:
    """A history that was saved."""
    stored = json.loads(path.read_text())
    made = {"seen": Seen, "samples": Sample, "struck": Struck, "leftovers": Leftover, "ended": Ended, "words": Said}
    stored |= {name: [shape(**each) for each in stored.get(name, ())] for name, shape in made.items()}
    stored["journals"] = {_key(name): lines for name, lines in stored["journals"].items()}
    stored["reference"] = {
        run: [(name, step, value) for name, step, value in each] for run, each in stored["reference"].items()
    }
    return History(**stored)


def _key(name: str) -> tuple[str, int]:
    run, _, attempt = name.partition("/")
    return run, int(attempt)


# ---- gathering -------------------------------------------------------------------------------------------------------


def collect(
    home: Path,
    database_url: str,
    seen: Iterable[Seen] | None = None,
    samples: Iterable[Sample] | None = None,
    struck: Iterable[Struck] = (),
    accepted: Iterable[str] = (),
    leftovers: Iterable[Leftover] = (),
) -> History:
    """Everything that stands in the database and under the home, beside what was watched meanwhile: `samples` are none where
    nobody looked at processes, `seen` where nobody followed a run."""
    with psycopg.connect(database_url) as connection:
        rows = {table: _rows(connection, table) for table in TABLES}
    return History(
        runs=rows["runs"],
        attempts=rows["attempts"],
        events=rows["events"],
        points=rows["points"],
        buckets=rows["buckets"],
        checkpoints=rows["checkpoints"],
        audit=rows["audit"],
        artifacts=rows["artifacts"],
        journals=journals_under(home),
        seen=list(seen or ()),
        samples=list(samples or ()),
        struck=list(struck),
        accepted=list(accepted),
        leftovers=list(leftovers),
        readable=published_folders(home, rows["checkpoints"], rows["artifacts"]),
        is_watched=samples is not None,
        is_followed=seen is not None,
    )


def _rows(connection: psycopg.Connection[Any], table: str) -> list[Row]:
    """All columns as JSON has them: times as ISO strings, numbers that are not finite as words."""
    name = sql.Identifier(STORED_AS.get(table, table))
    order = sql.SQL(", ").join(map(sql.Identifier, ORDER.get(table, ("run_id",))))
    query = sql.SQL("SELECT to_jsonb(rows) FROM {} AS rows ORDER BY {}").format(name, order)
    return [row for (row,) in connection.execute(query)]


def journals_under(home: Path) -> dict[tuple[str, int], list[Row]]:
    """The whole lines of every attempt's journal."""
    found = {}
    for file in sorted(home.glob("runs/*/attempt-*/events.jsonl")):
        key = (file.parent.parent.name, int(file.parent.name.removeprefix("attempt-")))
        whole, _, _half = file.read_bytes().rpartition(b"\n")
        found[key] = [json.loads(line) for line in whole.splitlines()]
    return found


def published_folders(home: Path, checkpoints: Sequence[Row], artifacts: Sequence[Row]) -> dict[str, list[str]]:
    """Every folder that is published now, with what is wrong in it."""
    found = {}
    for row in checkpoints:
        if row["replaced_at"] is None:
            found[row["folder"]] = list(_wrong_in_checkpoint(home / row["folder"], row["manifest_sha256"]))
    for row in artifacts:
        if row["withdrawn_at"] is None:
            found[row["folder"]] = list(_wrong_files(home / row["folder"], row["files"]))
    return found


def _wrong_in_checkpoint(folder: Path, digest: str) -> Iterator[str]:
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        yield "manifest.json is missing"
        return
    content = manifest.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        yield "manifest.json is not the one that was published"
        return  # a list that somebody cut says nothing of the files
    yield from _wrong_files(folder, json.loads(content)["files"])


def _wrong_files(folder: Path, files: Sequence[Row]) -> Iterator[str]:
    """Files that are missing or hold other bytes than their list says."""
    for file in files:
        path = folder / file["name"]
        if not path.is_file():
            yield f"{file['name']} is missing"
        elif path.stat().st_size != file["bytes"]:
            yield f"{file['name']} has {path.stat().st_size} bytes instead of {file['bytes']}"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
            yield f"{file['name']} has other bytes"


# ---- reading what is published ---------------------------------------------------------------------------------------

PUBLISHED = "SELECT folder, manifest_sha256 FROM checkpoints WHERE replaced_at IS NULL"


class Reader(threading.Thread):
    """Reads each checkpoint when it has just been published: at the end most of them are replaced and gone.

    What is found wrong counts only where the checkpoint is published still: else somebody may have been deleting it.
    """

    def __init__(self, home: Path, database_url: str, *, every_seconds: float = 0.5) -> None:
        super().__init__(name="reader", daemon=True)
        self.home, self.database_url, self.every_seconds = home, database_url, every_seconds
        self.read: dict[str, list[str]] = {}
        """What is wrong with each, by its folder."""
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(self.every_seconds):
            with contextlib.suppress(psycopg.OperationalError), self._connection() as connection:
                while not self._done.wait(self.every_seconds):
                    self.look(connection)

    def stop(self) -> dict[str, list[str]]:
        """End, and give what was read. A look that a frozen Postgres holds up is given up."""
        self._done.set()
        self.join(30)
        return dict(self.read)

    def _connection(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.database_url, autocommit=True, connect_timeout=2)

    def look(self, connection: psycopg.Connection[Any]) -> None:
        """Read what was published since the last look."""
        new = {row for row in connection.execute(PUBLISHED) if row[0] not in self.read}
        found = {}
        for folder, digest in new:
            with contextlib.suppress(
                FileNotFoundError
            ):  # it is being deleted, or the end will tell that it is not there
                found[folder] = list(_wrong_in_checkpoint(self.home / folder, digest))
        still = {folder for folder, _ in connection.execute(PUBLISHED)} if any(found.values()) else found.keys()
        self.read |= {folder: problems for folder, problems in found.items() if folder in still}


# ---- watching processes ----------------------------------------------------------------------------------------------

NAMES = {
    "worker.trainer": "trainer",
    "worker.supervisor": "supervisor",
    "tests.faults.planted": "supervisor",
    "tests.faults.feeding": "feeder",
    "celery": "celery",
    "backend.cli web": "web",
    "backend.cli up": "studio",
    "postgres": "postgres",
    "valkey-server": "valkey",
    "redis-server": "valkey",
}
STATUSES = {psutil.STATUS_STOPPED: "stopped", psutil.STATUS_TRACING_STOP: "stopped", psutil.STATUS_ZOMBIE: "zombie"}
SETTLED_SECONDS = 2.0
"""After that a process has become what it is: it was forked, and its program is loaded."""
AT_LEAST_SECONDS = 1.0


class Watcher(threading.Thread):
    """Looks at every process that serves `home`, until it is stopped.

    Of each process it keeps one look a second, every look that differs from the one before, and the last one of all: so
    the time of a death is known to one interval.
    """

    def __init__(self, home: Path, *, every_seconds: float = 0.07) -> None:
        super().__init__(name="watcher", daemon=True)
        self.home, self.every_seconds = home, every_seconds
        self.samples: list[Sample] = []
        self._kept: dict[int, Sample] = {}
        self._last: dict[int, Sample] = {}
        self._ours: dict[int, psutil.Process] = {}
        self._foreign: set[int] = set()
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(self.every_seconds):
            self.look()

    def stop(self) -> list[Sample]:
        """End, and give all samples in the order of their times."""
        self._done.set()
        self.join()
        for pid in list(self._last):
            self._forget(pid)
        return sorted(self.samples, key=lambda sample: sample.at)

    def is_following(self, pid: int) -> bool:
        """Whether this process was there at the newest look."""
        return pid in self._last

    def look(self) -> None:
        """One look at the process table."""
        present = set(psutil.pids())
        for pid in set(self._last) - present:
            self._forget(pid)
        self._foreign &= present
        for pid in present - self._foreign - set(self._ours):
            self._meet(pid)
        for process in list(self._ours.values()):
            with contextlib.suppress(psutil.Error, OSError):  # it ended while it was looked at
                self._note(process)

    def _meet(self, pid: int) -> None:
        """A new process: ours, somebody else's, or so young that it has not become anything yet."""
        try:
            process = psutil.Process(pid)
            if serves(process, str(self.home)):
                self._ours[pid] = process
            elif time.time() - process.create_time() > SETTLED_SECONDS:
                self._foreign.add(pid)
        except psutil.Error:
            pass

    def _forget(self, pid: int) -> None:
        """It is gone: its last look tells until when it was there."""
        last, kept = self._last.pop(pid), self._kept.pop(pid)
        self._ours.pop(pid, None)
        if last is not kept:
            self.samples.append(last)

    def _note(self, process: psutil.Process) -> None:
        before = self._last.get(process.pid)
        if before is not None and before.started != process.create_time():
            self._forget(process.pid)  # another process with the same number
            return
        now = self._last[process.pid] = self._sample(process, before)
        kept = self._kept.get(process.pid)
        if kept is None or now.at - kept.at >= AT_LEAST_SECONDS or replace(now, at=kept.at) != kept:
            if before is not None and before is not kept:
                self.samples.append(before)
            self.samples.append(now)
            self._kept[process.pid] = now

    def _sample(self, process: psutil.Process, before: Sample | None) -> Sample:
        with process.oneshot():
            at, started = time.time(), process.create_time()
            status = STATUSES.get(process.status(), "alive")
            parent = process.ppid()
        if before is not None and (before.run or (at - started > SETTLED_SECONDS and before.name != "spare")):
            return replace(before, at=at, parent=parent, status=status)
        name = name_of(process)
        run, attempt, device = self._work(process) if name == "trainer" else (None, None, None)
        name = "spare" if name == "trainer" and run is None else name
        host = _environment(process).get("STUDIO_WORKER_NAME")
        return Sample(at, process.pid, started, parent, name, run, attempt, device, host, status)

    def _work(self, process: psutil.Process) -> tuple[str | None, int | None, str | None]:
        """The attempt whose journal a trainer has open, as the kernel tells it, and the device that it was given."""
        for file in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                path = file.readlink()
                if path.name == "events.jsonl" and path.is_relative_to(self.home / "runs"):
                    assignment = json.loads((path.parent / "assignment.json").read_text())
                    return assignment["run"], assignment["attempt"], assignment["device"]
        return None, None, None


def name_of(process: psutil.Process) -> str:
    """What a process is, by its arguments."""
    arguments = " ".join(process.cmdline())
    return next((name for mark, name in NAMES.items() if mark in arguments), "other")


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}
