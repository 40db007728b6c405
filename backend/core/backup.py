"""A whole studio in one file, taken while it works.

The tables are read in one snapshot, as Postgres's own COPY writes them: no program of another version is needed, and
numbers come back to the last bit. Then come the files that rows of this snapshot name: data sets, checkpoints to go on from,
journals and what runs gave out. Published files never change, and `keeping_files` holds back whoever would delete one.

Not in it: base models, unless asked for; logs, caches and unfinished uploads; and the passwords of the services, which every
home makes for itself. Accounts and API tokens are, as hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy import func, inspect, select, text
from sqlalchemy.orm import Session

from backend.core import bundle, db
from backend.core.assignment import JOURNAL
from backend.core.bundle import Contents, Table, Tell
from backend.core.errors import Conflict, NotFound, Unavailable
from backend.core.people import audit, this_machine
from backend.core.settings import Settings
from backend.core.storage import Storage, storage
from backend.core.unfinished import refuse_unfinished

DELETING = 0x62_61_63_6B
"""The advisory lock that is shared by those who delete published files and held alone by a backup."""
VERSIONS = "alembic_version"
LOCK_SECONDS = 60
DATASETS = "SELECT DISTINCT key FROM dataset_versions ORDER BY key"
HERE = "(runs.place IS NULL OR runs.place = %(place)s)"
FOLDERS = f"""
SELECT folder FROM checkpoints JOIN runs ON runs.id = run_id WHERE replaced_at IS NULL AND deleted_at IS NULL AND {HERE}
UNION SELECT folder FROM artifacts JOIN runs ON runs.id = run_id WHERE withdrawn_at IS NULL AND {HERE} ORDER BY folder
"""
JOURNALS = f"""
SELECT run_id, number, journal_offset FROM attempts JOIN runs ON runs.id = run_id
WHERE journal_offset > 0 AND {HERE} ORDER BY run_id, number
"""
ELSEWHERE = "SELECT count(*) FROM runs WHERE place <> %(place)s"


# ---- nothing is deleted meanwhile -----------------------------------------------------------------------------------


def begin_deleting(session: Session) -> bool:
    """Whether published files may be deleted in this transaction: not while somebody backs the studio up, and nobody begins to
    before it ends. A large folder on a slow disk takes longer than a transaction may rest otherwise."""
    session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '10min'"))
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock_shared(DELETING))))


def has_locked(connection: psycopg.Connection, key: int, seconds: float) -> bool:
    """Whether this connection has the advisory lock now; nobody else let go of it for so long where not."""
    connection.execute(f"SET lock_timeout = '{seconds}s'")
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", [key])
    except psycopg.errors.LockNotAvailable:
        return False
    return True


@contextmanager
def keeping_files(connection: psycopg.Connection) -> Iterator[None]:
    """Until this ends, or the connection does, nobody deletes a published file. Raises `Conflict`."""
    if not has_locked(connection, DELETING, LOCK_SECONDS):
        hint = "Is another backup going on? Try again later."
        raise Conflict("Files of the studio are being deleted or backed up.", hint=hint, code="backup.busy")
    yield
    connection.execute("SELECT pg_advisory_unlock(%s)", [DELETING])


# ---- what belongs to it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A file of the studio: its name below the home, and the first `length` bytes of it, or all."""

    name: str
    path: Path
    length: int | None = None

    def pieces(self) -> Iterator[bytes]:
        left = self.path.stat().st_size if self.length is None else self.length
        with self.path.open("rb") as file:
            while left and (piece := file.read(min(left, bundle.PIECE_BYTES))):
                left -= len(piece)
                yield piece


@dataclass
class Found:
    """What the rows name: the keys of data sets, files below the home, and what is not there."""

    keys: list[str] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    elsewhere: int = 0
    """Runs whose files lie with another worker."""

    def folder(self, root: Path, folder: str) -> None:
        inside = (root / folder).rglob("*") if bundle.is_safe(bundle.HOME + folder) else ()
        files = sorted(path for path in inside if path.is_file() and not path.is_symlink())
        self.sources += [Source(path.relative_to(root).as_posix(), path) for path in files]
        if not files:
            self.missing.append(folder)


@dataclass(frozen=True)
class Summary:
    """What a backup holds, for whoever asked for it."""

    contents: Contents
    bytes: int
    elsewhere: int


def back_up(settings: Settings, database_url: str, path: Path, *, models: bool = False, tell: Tell) -> Summary:
    """Write the studio into a new file at `path`. Raises `Conflict`, `NotFound`, `Unavailable` and `DiskFull`.

    Memory stays flat, however large the studio is.
    """
    with connected(database_url) as connection, bundle.written(path, tell) as archive, keeping_files(connection):
        refuse_unfinished(settings.root)  # not sooner: a restore that is killed lets go of the lock, half done
        revision = _revision(connection)
        by = _this_machine(database_url)
        with _snapshot(connection):
            tables = _tables(database_url)
            for table in tables:
                archive.add(table.member, _rows(connection, table))
            found = _files(connection, settings)
        if models:
            _add_models(settings, found)
        missing = [*found.missing, *_copy(archive, found, settings)]
        contents = archive.close(
            Contents(
                made_at=datetime.now(UTC),
                revision=revision,
                place=settings.place(),
                tables=tuple(tables),
                missing=tuple(missing),
            )
        )
    _remember(database_url, by, path.name)
    return Summary(contents, path.stat().st_size, found.elsewhere)


@contextmanager
def connected(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection of our own, with what goes wrong on it in words."""
    plain = db.driver_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(plain, autocommit=True, connect_timeout=5) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise Unavailable(f"The studio's database cannot be reached: {error}.", hint="Is Postgres running?") from error


def _revision(connection: psycopg.Connection) -> str:
    """Rows are read by today's names. Raises `NotFound` for no studio, `Conflict` for one of another version."""
    try:
        (revision,) = connection.execute(f"SELECT version_num FROM {VERSIONS}").fetchone() or ("",)
    except psycopg.errors.UndefinedTable:
        raise NotFound("There is no studio in this database.", code="no_studio") from None
    if revision != db.newest_revision():
        hint = "Run `studio migrate`, or use the program that serves it."
        raise Conflict(f"The database is that of another version ({revision}).", hint=hint, code="backup.version")
    return str(revision)


@contextmanager
def _snapshot(connection: psycopg.Connection) -> Iterator[None]:
    """All that is read inside is the state of one moment."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    with connection.transaction():
        yield


def _tables(database_url: str) -> list[Table]:
    with db.engine_once(database_url) as engine:
        found = inspect(engine)
        names = sorted(set(found.get_table_names()) - {VERSIONS})
        return [Table(name=name, columns=tuple(column["name"] for column in found.get_columns(name))) for name in names]


def _rows(connection: psycopg.Connection, table: Table) -> Iterator[bytes]:
    """COPY brings a row at a time: they are worth a write by the MiB."""
    held = bytearray()
    with connection.cursor() as cursor, cursor.copy(copying(table, "TO STDOUT")) as rows:
        for row in rows:
            held += row
            if len(held) >= bundle.PIECE_BYTES:
                yield bytes(held)
                held.clear()
    yield bytes(held)


def copying(table: Table, direction: str) -> sql.Composed:
    """COPY of a table's columns, each named: a later program may add some."""
    columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    return sql.SQL("COPY {} ({}) {}").format(sql.Identifier(table.name), columns, sql.SQL(direction))


def _files(connection: psycopg.Connection, settings: Settings) -> Found:
    """What the rows of the snapshot name."""
    here, root, found = {"place": settings.place()}, settings.root, Found()
    found.keys = [key for (key,) in connection.execute(DATASETS)]
    for (folder,) in connection.execute(FOLDERS, here):
        found.folder(root, folder)
    for run_id, attempt, stored in connection.execute(JOURNALS, here):
        journal = settings.run_folder(run_id, attempt) / JOURNAL
        found.sources.append(Source(journal.relative_to(root).as_posix(), journal, stored))
    (found.elsewhere,) = connection.execute(ELSEWHERE, here).fetchone() or (0,)
    return found


def _add_models(settings: Settings, found: Found) -> None:
    """Base models of the home. Those of other roots, and downloads, are somebody else's to keep."""
    models = settings.folder("models")
    for path in sorted(path for path in models.rglob("*") if path.is_file()):
        if path.resolve().is_relative_to(models.resolve()):
            found.sources.append(Source(f"models/{path.relative_to(models).as_posix()}", path))


def _copy(archive: bundle.Writer, found: Found, settings: Settings) -> Iterable[str]:
    """Put the files into the archive. Yields the names of those that are not to be had."""
    files = storage(settings)
    for key in found.keys:
        try:
            archive.add(bundle.HOME + key, _stored(files, key))
        except NotFound:
            yield key
    for source in found.sources:
        if source.path.is_file():
            archive.add(bundle.HOME + source.name, source.pieces())
        else:
            yield source.name


def _stored(files: Storage, key: str) -> Iterator[bytes]:
    """A published file in pieces, from a bucket as from a folder."""
    size = files.size(key)
    return (files.read(key, at, bundle.PIECE_BYTES * 8) for at in range(0, size, bundle.PIECE_BYTES * 8))


def _this_machine(database_url: str) -> UUID:
    """Whose command this is. The account is made before the snapshot, so that the restored studio has the same one."""
    with db.engine_once(database_url) as engine, Session(engine) as session, session.begin():
        return this_machine(session).id


def _remember(database_url: str, by: UUID, name: str) -> None:
    with db.engine_once(database_url) as engine, Session(engine) as session, session.begin():
        audit(session, by, "studio.backup", name)
