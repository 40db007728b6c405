"""Large uploads are read, and models downloaded, in the background as operations: told how far they are, called off, and
taken up again after a crash.

An operation is carried out by a thread of a web process. It holds a lock in Postgres meanwhile, which ends with the
process, so whoever starts next takes up what was left and two never work on the same one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from uuid import UUID

from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session

from backend.core import hub
from backend.core.bulk import among
from backend.core.datasets.store import Prepared, Upload, commit_version, prepare
from backend.core.errors import Conflict, Forbidden, StudioError, Unavailable, Unstorable
from backend.core.models import Dataset, Json, Operation, Role, User
from backend.core.settings import Settings
from backend.core.uploads import WORDS, has_been_read

log = logging.getLogger(__name__)

INGEST, DOWNLOAD = "ingest", "download"
TELL_SECONDS = 0.5
RETRY_SECONDS = 5
LONGEST_SECONDS = 300
"""A storage that is away is asked again after pauses that grow from the first to the second."""
THREADS = 2
OUTAGES = (OperationalError, InternalError, InterfaceError, PendingRollbackError, NoConnectionFree)
"""Postgres is away or in trouble, or took a transaction back in which this process stood still. No operation fails of that."""


def address_of(operation_id: UUID) -> str:
    """Where the API tells of it: what is said of an upload that it reads."""
    return f"/api/v1/operations/{operation_id}"


def begin(session: Session, upload: Upload) -> Operation:
    """The operation that will read this upload, or the one that reads this very file already, or has just done so. After the
    commit, give its id to `Operations.submit`."""
    of_file = (Operation.kind == INGEST, Operation.input["path"].astext == str(upload.path))
    if same := session.scalar(select(Operation).where(*of_file)):
        return same
    operation = Operation(
        kind=INGEST, state="running", input=upload.as_json(), total=upload.bytes, owner_id=upload.owner_id
    )
    session.add(operation)
    session.flush()
    return operation


def begin_download(session: Session, model: hub.HubModel, owner_id: UUID) -> Operation:
    """The operation that will fetch this model at its commit, or the one that is fetching it already. Raises `Conflict` while
    another commit of it is fetched: both would lie in one folder, whose size tells how far a download is."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("download", 0))))
    going_on = (Operation.kind == DOWNLOAD, Operation.state == "running")
    if same := session.scalar(select(Operation).where(*going_on, Operation.input["id"].astext == model.id)):
        if same.input["revision"] != model.revision:
            raise _another_commit(same)
        return same
    left = func.greatest(func.coalesce(Operation.total, 0) - Operation.done, 0)
    hub.refuse_unusable(
        model, promised=int(session.scalar(select(func.coalesce(func.sum(left), 0)).where(*going_on)) or 0)
    )
    wanted: Json = {"id": model.id, "revision": model.revision, "total": model.bytes or 0}
    operation = Operation(kind=DOWNLOAD, state="running", input=wanted, total=model.bytes, owner_id=owner_id)
    session.add(operation)
    session.flush()
    return operation


def _another_commit(going_on: Operation) -> Conflict:
    words = f"“{going_on.input['id']}” is being downloaded at another commit, {going_on.input['revision']}."
    return Conflict(words, hint="Wait for it to end, then try again.", where="revision", code="model.other_commit")


class Operations:
    """Carries operations out, a few at a time. Downloads take hours at times, and do not keep files from being read."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        self.threads = {
            kind: ThreadPoolExecutor(THREADS, thread_name_prefix=f"operation-{kind}") for kind in (INGEST, DOWNLOAD)
        }
        self.closing = Event()
        self._in_hand: set[UUID] = set()

    def resume(self) -> None:
        """Take up what is unfinished and nobody works on, and put away files that were read by who died before it did so. For the
        start of a process, and again and again: a lock may outlive its process until Postgres learns of the death, and an
        operation may stand though its beginner never heard so."""
        files = [str(file) for file in self.settings.folder("uploads").iterdir() if file.suffix not in WORDS]
        with Session(self.engine) as session:
            query = select(Operation.id, Operation.kind).where(Operation.state == "running")
            running = session.execute(query.order_by(Operation.id)).all()
            path = Operation.input["path"].astext
            over = select(Operation.id, path).where(Operation.state != "running", among(path, files))
            read = session.execute(over).all()
        for operation_id, file in read:
            has_been_read(Path(file), address_of(operation_id))
        for operation_id, kind in running:
            self.submit(operation_id, kind)

    def submit(self, operation_id: UUID, kind: str = INGEST) -> None:
        if operation_id in self._in_hand:
            return
        with suppress(RuntimeError):  # this process is ending: the next start takes it up
            self._in_hand.add(operation_id)
            self.threads[kind].submit(self._run, operation_id)

    def close(self) -> None:
        """End at once; what is unfinished is taken up at the next start."""
        self.closing.set()
        for threads in self.threads.values():
            threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, operation_id: UUID) -> None:
        try:
            while not self.closing.is_set():
                try:
                    self._carry_out(operation_id)
                    break
                except OUTAGES as error:
                    log.warning("operation %s waits: %s", operation_id, error)
                    self.closing.wait(RETRY_SECONDS)
        finally:
            self._in_hand.discard(operation_id)

    def _carry_out(self, operation_id: UUID) -> None:
        try:
            run_operation(self.engine, self.settings, operation_id, stopping=self.closing.is_set)
        except OUTAGES:
            raise
        except Exception:
            log.exception("operation %s failed", operation_id)
            _fail(self.engine, operation_id, StudioError("This failed unexpectedly."))


def run_operation(
    engine: Engine, settings: Settings, operation_id: UUID, *, stopping: Callable[[], bool] = lambda: False
) -> None:
    """Carry one operation out, unless it has ended or somebody else does. Its outcome stands in its row.

    `stopping` says that this process is ending: the operation then stays as it is. Where the storage takes no file now, what was
    read waits for it, and the row says so.
    """
    with _alone(engine, operation_id) as is_alone:
        if not is_alone:
            return
        kind, wanted = _wanted(engine, operation_id)
        watch = _Watch(engine, operation_id, stopping)
        try:
            watch.check()
            _ingest(wanted, settings, watch) if kind == INGEST else _download(wanted, watch)
        except StudioError as error:
            if stopping():
                return
            _fail(engine, operation_id, error)
        if kind == INGEST:
            has_been_read(Upload.from_json(wanted).path, address_of(operation_id))


def _ingest(wanted: Json, settings: Settings, watch: _Watch) -> None:
    upload = Upload.from_json(wanted)
    prepared = _prepared(upload, settings, watch)
    _succeed(watch.engine, watch.operation_id, partial(_publish, upload=upload, prepared=prepared))


def _prepared(upload: Upload, settings: Settings, watch: _Watch) -> Prepared:
    """What was read is kept while it cannot be published. Where there was no room for it, it is read again later."""
    while True:
        try:
            return prepare(upload, settings, on_progress=watch.tell, cancelled=watch.is_over, wait=watch.wait)
        except Unstorable as error:
            watch.wait(error)


def _publish(session: Session, operation: Operation, upload: Upload, prepared: Prepared) -> Json:
    """The version becomes visible. Its sender's account may have been removed meanwhile: what it began stays, and is
    nobody's. Raises `Forbidden` where somebody else made the data set meanwhile, or brought it back; what stood was looked at."""
    version = commit_version(session, replace(upload, owner_id=operation.owner_id), prepared)
    dataset = session.get_one(Dataset, version.dataset_id)
    sender = session.get(User, operation.owner_id) if operation.owner_id else None
    is_anothers = dataset.owner_id != operation.owner_id and dataset.id != upload.dataset_id
    if is_anothers and (sender is None or sender.role != Role.ADMIN):
        raise Forbidden(
            f"“{upload.name}” became somebody else's while the file was read.", hint="Upload it under another name."
        )
    return {"dataset": upload.name, "version": version.number, "version_id": str(version.id)}


def _download(wanted: Json, watch: _Watch) -> None:
    hub.obtain(wanted, on_progress=watch.tell, cancelled=watch.is_over)
    result = {"model": wanted["id"], "revision": wanted["revision"]}
    _succeed(watch.engine, watch.operation_id, lambda _session, _operation: result)


@contextmanager
def _alone(engine: Engine, operation_id: UUID) -> Iterator[bool]:
    """Whether this is the only one at work. The lock belongs to the connection, which goes back to the others in the end."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        key = func.hashtextextended(str(operation_id), 0)
        try:
            yield bool(connection.scalar(select(func.pg_try_advisory_lock(key))))
        finally:
            try:
                connection.execute(select(func.pg_advisory_unlock_all()))
            except SQLAlchemyError:  # what broke the connection is told already, and its lock ends with it
                connection.invalidate()


def _wanted(engine: Engine, operation_id: UUID) -> tuple[str, Json]:
    with Session(engine) as session:
        operation = session.get_one(Operation, operation_id)
        return operation.kind, operation.input


class _Watch:
    """Tells the row how far the reading is, and asks it whether it was called off, both now and then."""

    def __init__(self, engine: Engine, operation_id: UUID, stopping: Callable[[], bool]) -> None:
        self.engine, self.operation_id, self.stopping = engine, operation_id, stopping
        self.told = self.asked = time.monotonic()
        self.pause_seconds = RETRY_SECONDS
        self.has_ended = False

    def tell(self, progress: Json) -> None:
        if time.monotonic() - self.told < TELL_SECONDS:
            return
        self.told = time.monotonic()
        _tell(self.engine, self.operation_id, done=progress["done"], total=progress["total"])

    def wait(self, error: Unavailable) -> None:
        """Say what keeps it, and pause, longer each time. Raises `Conflict` where it is over meanwhile."""
        log.warning("operation %s waits: %s", self.operation_id, error)
        _tell(self.engine, self.operation_id, error=error.as_json()["error"])
        until = time.monotonic() + self.pause_seconds
        self.pause_seconds = min(2 * self.pause_seconds, LONGEST_SECONDS)
        while time.monotonic() < until:
            if self.is_over():
                raise _cancelled()
            time.sleep(TELL_SECONDS)

    def is_over(self) -> bool:
        if time.monotonic() - self.asked > TELL_SECONDS:
            self._ask()
        return self.has_ended or self.stopping()

    def check(self) -> None:
        """Raise `Conflict` where the operation has ended before it began."""
        self._ask()
        if self.has_ended:
            raise _cancelled()

    def _ask(self) -> None:
        self.asked = time.monotonic()
        with Session(self.engine) as session:
            state = session.scalar(select(Operation.state).where(Operation.id == self.operation_id))
        self.has_ended = state != "running"


def _cancelled() -> Conflict:
    return Conflict("It was cancelled.", code="cancelled")


def _succeed(engine: Engine, operation_id: UUID, publish: Callable[[Session, Operation], Json]) -> None:
    """What was made becomes visible and the operation succeeds in one transaction, unless it was called off before."""
    with Session(engine) as session, session.begin():
        operation = session.get_one(Operation, operation_id, with_for_update=True)
        if operation.state != "running":
            raise _cancelled()
        operation.result = publish(session, operation)
        operation.state, operation.ended_at, operation.error = "succeeded", datetime.now(UTC), None
        operation.done = operation.total or operation.done


def _tell(engine: Engine, operation_id: UUID, **values: Json | int | None) -> None:
    """Say in the row how far it is, or what keeps it, unless it was called off."""
    with Session(engine) as session, session.begin():
        still = (Operation.id == operation_id) & (Operation.state == "running")
        session.execute(update(Operation).where(still).values(values))


def _fail(engine: Engine, operation_id: UUID, error: StudioError) -> None:
    with Session(engine) as session, session.begin():
        operation = session.get_one(Operation, operation_id, with_for_update=True)
        operation.ended_at = operation.ended_at or datetime.now(UTC)
        if operation.state == "running":
            operation.state, operation.error = "failed", error.as_json()["error"]
