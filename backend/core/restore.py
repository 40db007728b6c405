"""A studio out of a backup: every byte is checked before anything is touched, and what stands here stays until all is there.

Files are unpacked beside those of the home, and the tables are made anew and filled in one transaction. Then the folders
change places by renaming, and the transaction is committed: up to that moment the studio that stood is the studio. A restore
that was killed leaves its draft behind. The next one, or the next start, learns from the database which of the two stands, and
tidies up. An advisory lock of the database lets only one at a time restore or tidy up.

A run that was training when the backup was taken is queued again and goes on from its checkpoint. Sign-ins and links end
unless they are asked for, and so does background work on uploads, which are no part of a backup. What an archive says of
people is believed: restore one only from somebody who may be an administrator.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Integer, delete, func, inspect, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from backend.core import backup, db, runs
from backend.core.bundle import HOME, Contents, Damaged, Reader, Table, Tell
from backend.core.durable import sync, sync_tree
from backend.core.errors import Conflict, Invalid, StudioError, Unavailable, Unstorable, has_no_room
from backend.core.models import Device, Invitation, Operation, Run, SetupToken, SignIn, State, Worker
from backend.core.people import audit, this_machine
from backend.core.settings import Settings
from backend.core.storage import publish_file, storage
from backend.core.unfinished import DRAFT
from backend.core.uploads import DiskFull

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

log = logging.getLogger(__name__)

REPLACED = ("runs", "datasets", "uploads")
OVER = ".restored-"
"""How folders of the home begin whose restore is over, and which only have to go."""
BELONGS = "database"
"""The file of a draft that says to which database it belongs."""
RESTORING = 0x72_65_73_74
"""The advisory lock of whoever restores, or puts in order what a restore left."""
COMPANY_SECONDS = 5.0
"""How long another connection may take to end: that of a killed restore lives until Postgres has noticed."""
ATTEMPT_GAP = 1_000
"""More attempts than any run was given between a backup and the loss of its studio."""
ATTEMPTS_SINCE = datetime(2026, 1, 1, tzinfo=UTC)
"""Attempts are numbered from the seconds since then on: the same archive may be restored again, and no run is claimed once a
second. An integer of Postgres holds them until 2094."""
STANDS = f"SELECT obj_description(to_regclass('{backup.VERSIONS}'), 'pg_class')"
"""The draft that the tables came with."""
HAS_TABLES = f"SELECT to_regclass('{backup.VERSIONS}') IS NOT NULL"
NAMED = "SELECT oid::text || ' ' || datname::text FROM pg_database WHERE datname = current_database()"
SIGNS_OF_LIFE = ("users", "runs", "datasets")
OTHERS = f"""
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND (classid, objid, objsubid) = (0, {RESTORING}, 1))
"""
"""Connections but ours. Whoever has the lock of a restore, or waits for it, does nothing else on that one."""
ASTRAY = """
SELECT place FROM (SELECT folder FROM checkpoints UNION SELECT folder FROM artifacts UNION SELECT key FROM dataset_versions)
AS named (place) WHERE place !~ '^(runs|datasets)/' OR place ~ '(^|/)[.]{1,2}(/|$)' OR place ~ '//|\\\\' LIMIT 1
"""
"""Folders that rows name are read, served and deleted: each must lead into the home."""
COUNTERS = """
SELECT attribute.attname, pg_get_serial_sequence(quote_ident(%(table)s), attribute.attname)
FROM pg_attribute AS attribute
WHERE attribute.attrelid = to_regclass(quote_ident(%(table)s)) AND attribute.attnum > 0 AND NOT attribute.attisdropped
AND pg_get_serial_sequence(quote_ident(%(table)s), attribute.attname) IS NOT NULL
"""


@dataclass(frozen=True)
class Restored:
    """What came back. `going_on` are the runs that were held when the backup was taken, and are queued now."""

    contents: Contents
    going_on: tuple[str, ...]


def check(path: Path, tell: Tell) -> Contents:
    """Read a whole archive. Raises `Damaged` naming the first file that is not what was written."""
    with Reader(path) as archive:
        _refuse_newer(archive.contents)
        archive.verify(tell)
        return archive.contents


def restore(
    settings: Settings,
    database_url: str,
    path: Path,
    *,
    replace: bool = False,
    keep_sign_ins: bool = False,
    tell: Tell,
) -> Restored:
    """Make this home and this database the studio that the archive holds. No part of a studio may be at work here.

    Raises `Conflict` where a studio stands already, unless it is to be replaced, `Damaged`, `DiskFull` and `Unavailable`. What
    stood before it then stands still: nothing of it is given up before all of the new one is there.
    """
    with _alone(database_url) as alone, _disk_told(settings):
        _put_in_order(settings, alone)
        _refuse_company(alone)
        with Reader(path) as archive:
            contents = archive.contents
            _refuse_newer(contents)
            if not replace:
                _refuse_a_studio(settings, alone)
            _refuse_folders_elsewhere(settings)
            _refuse_what_does_not_fit(settings, contents)
            archive.verify(tell)
            with _draft(settings, database_url, alone) as draft:
                _unpack(settings, archive, draft, tell)
                with _one_transaction(database_url) as connection:
                    _load(connection, archive, tell)
                    going_on = _tie_up(connection, settings, contents, path.name, keep_sign_ins=keep_sign_ins)
                    _sign(connection, draft)
                    _publish_what_never_changes(settings, draft)
                    _refuse_late_company(connection, alone)
                    _change_places(settings, draft)
        return Restored(contents, going_on)


@contextlib.contextmanager
def _alone(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection of our own that has the lock of a restore for as long as it lives. Raises `Conflict`, `Unavailable`."""
    with backup.connected(database_url) as connection:
        if not backup.has_locked(connection, RESTORING, COMPANY_SECONDS):
            hint = "Wait for it to end, then try again."
            raise Conflict("A restore is at work in this database.", hint=hint, code="restore.at_work")
        yield connection


# ---- the draft ------------------------------------------------------------------------------------------------------


def mend(settings: Settings, database_url: str) -> None:
    """Tidy up after a restore that was killed: its studio stands if its tables were committed, else the one before it.

    Raises `Conflict` while a restore is at work, while somebody uses the database, the killed one's connection too, or where
    the database is another one than the restore's; `Unavailable`; and `Unstorable`.
    """
    if _drafts(settings) or _over(settings):
        with _alone(database_url) as alone, _disk_told(settings):
            _put_in_order(settings, alone)


def _put_in_order(settings: Settings, alone: psycopg.Connection) -> None:
    """Under the lock: a draft that is seen without it may be that of a restore at work."""
    drafts = _drafts(settings)
    stands = _standing(alone) if drafts else None
    for draft in drafts:
        _refuse_another_database(draft, alone)
        if draft.name != stands:
            _put_back(settings, draft)
        whose = "that it brought" if draft.name == stands else "that stood before it"
        log.warning("A restore broke off in %s: the studio %s stands.", settings.root, whose)
        _throw_away(draft)
    for over in _over(settings):
        _delete(over)


def _drafts(settings: Settings) -> list[Path]:
    return sorted(settings.root.glob(f"{DRAFT}*"))


def _over(settings: Settings) -> list[Path]:
    return sorted(settings.root.glob(f"{OVER}*"))


def _standing(alone: psycopg.Connection) -> str | None:
    """The draft that the committed tables came with; nobody is about to commit others."""
    _refuse_company(alone, mends=True)
    (stands,) = alone.execute(STANDS).fetchone() or (None,)
    return None if stands is None else str(stands)


def _describe(alone: psycopg.Connection) -> set[str]:
    """Which database this is, and whether there are tables in it."""
    (named,) = alone.execute(NAMED).fetchone() or ("",)
    return {str(named), *(["tables"] if _has_tables(alone) else [])}


def _refuse_another_database(draft: Path, alone: psycopg.Connection) -> None:
    """Which of two studios stands, only the database of that restore knows: where there were tables, there are some."""
    belongs = draft / BELONGS
    if not (draft / "before").exists():
        return
    described = set(belongs.read_text("utf-8").splitlines()) if belongs.exists() else {"tables"}
    if not described <= _describe(alone):
        hint = "Let DATABASE_URL name the one that it went into, then start the studio again."
        words = f"A restore broke off in {draft.parent}, and this database is not the one that it went into."
        raise Conflict(words, hint=hint, code="restore.other_database")


@contextlib.contextmanager
def _draft(settings: Settings, database_url: str, alone: psycopg.Connection) -> Iterator[Path]:
    """A folder of the home: in `new` lies what is unpacked, in `before`, once folders change places, what stood there."""
    draft = settings.root / f"{DRAFT}{uuid4().hex}"
    draft.mkdir(mode=0o700)
    try:
        (draft / BELONGS).write_text("\n".join(_describe(alone)), "utf-8")
        yield draft
    except BaseException:
        with contextlib.suppress(StudioError, OSError):  # what is left is for the next restore, or the next start
            if (draft / "before").exists():  # whether the tables were committed, the database alone knows
                _ask_again(settings, database_url, alone)
            else:
                _throw_away(draft)
        raise
    try:
        _throw_away(draft)
    except OSError as error:
        log.warning("%s cannot be put away: %s. The next start tries again.", draft, error.strerror)


def _ask_again(settings: Settings, database_url: str, alone: psycopg.Connection) -> None:
    try:
        _put_in_order(settings, alone)
    except psycopg.OperationalError:  # the connection is lost, and its lock with it
        mend(settings, database_url)


def _change_places(settings: Settings, draft: Path) -> None:
    """What was unpacked lies in the home, and what lay there lies in the draft, also after a power cut. Where that fails, all is
    put back: nothing was committed yet."""
    new, before = draft / "new", draft / "before"
    before.mkdir()
    sync(draft)
    try:
        for name in REPLACED:
            (settings.root / name).rename(before / name)
            (new / name).rename(settings.root / name)
        for folder in (new, before, settings.root):
            sync(folder)
    except BaseException:
        _put_back(settings, draft)
        before.rmdir()
        raise


def _put_back(settings: Settings, draft: Path) -> None:
    """As it was before folders changed places, however far that went."""
    for name in REPLACED:
        old, place = draft / "before" / name, settings.root / name
        if not old.exists():
            continue
        if place.exists():
            place.rename(draft / f"{name}-{uuid4().hex}")
        old.rename(place)
    sync(settings.root)


def _throw_away(draft: Path) -> None:
    """Under another name first: nobody shall put back what is half deleted."""
    over = draft.rename(draft.with_name(draft.name.replace(DRAFT, OVER)))
    sync(over.parent)
    _delete(over)


def _delete(over: Path) -> None:
    """What cannot be deleted keeps no studio from starting."""
    try:
        shutil.rmtree(over)
    except OSError as error:
        log.warning("%s is needed no more and cannot be deleted: %s.", over, error)


@contextlib.contextmanager
def _disk_told(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if has_no_room(error):
            raise DiskFull(f"{settings.root} has no room for what is restored.", hint="Make room.") from error
        words = f"{error.filename or settings.root} cannot be written: {error.strerror}."
        raise Unstorable(words, hint="Mend that first.") from error


# ---- refusals -------------------------------------------------------------------------------------------------------


def _refuse_newer(contents: Contents) -> None:
    if not db.is_known(contents.revision):
        hint = "Update the studio, then restore."
        raise Invalid(
            f"The archive has tables of a newer studio ({contents.revision}).", hint=hint, code="archive.newer"
        )


def _refuse_company(connection: psycopg.Connection, *, mends: bool = False) -> None:
    """A studio at work would write into what is being restored."""
    deadline = time.monotonic() + COMPANY_SECONDS
    while others := _others(connection):
        if time.monotonic() > deadline:
            hint = (
                "Stop what uses it, then start the studio again: a restore that broke off has to be put in order first."
                if mends
                else "Stop the web and the workers that use it, then restore."
            )
            raise Conflict(f"{others} other connections use this database.", hint=hint, code="restore.in_use")
        time.sleep(0.05)


def _others(connection: psycopg.Connection) -> int:
    connection.execute("SELECT pg_stat_clear_snapshot()")  # in a transaction they stay as they were first seen
    (others,) = connection.execute(OTHERS).fetchone() or (0,)
    return int(others)


def _refuse_late_company(connection: Connection, alone: psycopg.Connection) -> None:
    """Loading takes long: who came meanwhile, and whether the lock is still ours, is asked just before it matters."""
    alone.execute("SELECT 1")
    _refuse_company(_driver(connection))


def _driver(connection: Connection) -> psycopg.Connection:
    return cast("psycopg.Connection", connection.connection.driver_connection)


def _refuse_a_studio(settings: Settings, alone: psycopg.Connection) -> None:
    hint = "Choose an empty STUDIO_HOME and database, or let --replace remove what is there."
    for name in ("runs", "datasets"):
        if any(settings.folder(name).iterdir()):
            raise Conflict(f"{settings.root / name} is not empty.", hint=hint, code="restore.not_empty")
    if _is_lived_in(alone):
        raise Conflict("There is a studio in this database.", hint=hint, code="restore.not_empty")


def _has_tables(connection: psycopg.Connection) -> bool:
    return connection.execute(HAS_TABLES).fetchone() == (True,)


def _is_lived_in(connection: psycopg.Connection) -> bool:
    return _has_tables(connection) and any(
        connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))).fetchone()
        for table in SIGNS_OF_LIFE
    )


def _refuse_folders_elsewhere(settings: Settings) -> None:
    """Folders change places at once only where they are the home's own."""
    for path in map(settings.folder, REPLACED):
        if path.is_symlink() or path.is_mount():
            hint = "Put a plain folder there, or restore into another STUDIO_HOME."
            raise Conflict(f"{path} leads out of {settings.root}.", hint=hint, code="restore.elsewhere")


def _refuse_what_does_not_fit(settings: Settings, contents: Contents) -> None:
    """An archive may say that it unpacks to more than any disk holds."""
    free = shutil.disk_usage(settings.root).free
    if contents.bytes > free:
        words = f"The archive unpacks to {contents.bytes:,} bytes, and {free:,} are free in {settings.root}."
        raise DiskFull(words, hint="Make room, or choose another STUDIO_HOME.")


# ---- files ----------------------------------------------------------------------------------------------------------


def _unpack(settings: Settings, archive: Reader, draft: Path, tell: Tell) -> None:
    """Every file of the archive that is not in the home for good, on the disk. Files of base models that are there stay."""
    new = draft / "new"
    for folder in REPLACED:
        (new / folder).mkdir(parents=True)
    for member in archive.contents.files:
        name = member.name.removeprefix(HOME)
        is_there = name.startswith("models/") and _stays(settings.root / name, member.bytes)
        if name == member.name or is_there:  # a table, or nothing to do
            continue
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        _write(new / name, archive.pieces(member, tell))
    sync_tree(draft)
    sync(settings.root)


def _stays(path: Path, size: int) -> bool:
    """A file of another length may be half of one, such as an earlier copy left that was cut off."""
    return path.exists() and not (path.is_file() and path.stat().st_size != size)


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)


def _publish_what_never_changes(settings: Settings, draft: Path) -> None:
    """Data sets in a bucket, whose keys are made of their content, and base models: the studio that stands loses nothing by
    them."""
    new = draft / "new"
    if settings.storage_url:
        bucket = storage(settings)
        for file in [path for path in (new / "datasets").rglob("*") if path.is_file()]:
            bucket.publish(file, file.relative_to(new).as_posix())
    if (new / "models").is_dir():
        _merge(new / "models", settings.folder("models"))


def _merge(source: Path, target: Path) -> None:
    """Each file stands there whole or not at all, though the target may lie on another disk."""
    for path in sorted(source.iterdir()):
        there = target / path.name
        if path.is_file():
            publish_file(path, there)
        elif there.is_dir() or not there.exists():
            there.mkdir(exist_ok=True)
            _merge(path, there)
    sync(target)


# ---- tables ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _one_transaction(database_url: str) -> Iterator[Connection]:
    """Old tables go and new ones come at once, at its commit. What goes wrong in it is told in words."""
    try:
        with db.engine_once(database_url) as engine, engine.begin() as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # a bucket takes its time
            connection.execute(text(f"SET LOCAL lock_timeout = '{backup.LOCK_SECONDS}s'"))
            connection.execute(
                select(func.pg_advisory_xact_lock(backup.DELETING))
            )  # before any table: a backup reads them
            yield connection
    except (psycopg.Error, DBAPIError) as error:
        raise _in_words(error.orig if isinstance(error, DBAPIError) else error) from error


def _in_words(error: BaseException | None) -> BaseException:
    match error:
        case psycopg.errors.DiskFull():
            return DiskFull("The disk of the studio's database is full.", hint="Make room, then restore again.")
        case psycopg.errors.LockNotAvailable() | psycopg.errors.DeadlockDetected() | psycopg.errors.QueryCanceled():
            words = f"Something else is at work in the studio's database: {error.diag.message_primary}."
            return Conflict(words, hint="Stop what uses it, then restore again.", code="restore.in_use")
        case psycopg.OperationalError():
            hint = "Is Postgres running? Then restore again."
            return Unavailable(f"The studio's database cannot be reached: {error}.", hint=hint)
        case psycopg.DataError() | psycopg.IntegrityError():
            return Damaged("A row", f"does not fit into a studio: {error.diag.message_primary}")
        case _:
            return error or RuntimeError("an error of the database without a cause")


def _load(connection: Connection, archive: Reader, tell: Tell) -> None:
    """The tables as they were, of the revision that they had, and then brought to today's."""
    driver = _driver(connection)
    _take_down(connection)
    _bring_to(connection, archive.contents.revision)
    for table in _in_order(connection, archive.contents.tables):
        _load_table(driver, table, archive, tell)
        _set_counters(driver, table)
    if astray := driver.execute(ASTRAY).fetchone():
        raise Damaged(str(astray[0]), "would lie outside of a studio")
    _bring_to(connection, db.newest_revision())


def _take_down(connection: Connection) -> None:
    """Drop the tables that are there. Raises `Invalid` where they are those of a newer studio."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    context, script = MigrationContext.configure(connection), _script()
    current = context.get_current_revision()
    if current is None:
        return
    if not db.is_known(current):
        hint = "Update the studio, then restore."
        raise Invalid(f"The database is that of a newer studio ({current}).", hint=hint, code="restore.newer")
    with Operations.context(context):
        for step in script.iterate_revisions(current, "base"):
            step.module.downgrade()
    context.stamp(script, "base")


def _bring_to(connection: Connection, revision: str) -> None:
    """What `db.migrate` does, in the transaction of this connection."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    context, script = MigrationContext.configure(connection), _script()
    with Operations.context(context):
        for step in reversed(list(script.iterate_revisions(revision, context.get_current_revision() or "base"))):
            step.module.upgrade()
    context.stamp(script, revision)


def _script() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(db.migrations_folder()))


def _sign(connection: Connection, draft: Path) -> None:
    """The tables say with which draft they came: where the commit's answer is lost, this tells whether it went through."""
    connection.exec_driver_sql(f"COMMENT ON TABLE {backup.VERSIONS} IS '{draft.name}'")


def _in_order(connection: Connection, tables: Sequence[Table]) -> list[Table]:
    """Tables that others refer to come first. Raises `Invalid` for one that this revision does not have."""
    found = inspect(connection)
    names = [name for name, _ in found.get_sorted_table_and_fkc_names() if name and name != backup.VERSIONS]
    known = {name: {column["name"] for column in found.get_columns(name)} for name in names}
    for table in tables:
        if not set(table.columns) <= known.get(table.name, set()):
            raise Invalid(f"The archive has a table that a studio has not: {table.name}.", code="archive.foreign")
    return sorted(tables, key=lambda table: names.index(table.name))


def _load_table(connection: psycopg.Connection, table: Table, archive: Reader, tell: Tell) -> None:
    try:
        with connection.cursor().copy(backup.copying(table, "FROM STDIN")) as rows:
            for piece in archive.pieces(archive.member(table.member), tell):
                rows.write(piece)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise Damaged(table.member, f"does not fit into its table: {error.diag.message_primary}") from error


def _set_counters(connection: psycopg.Connection, table: Table) -> None:
    """Numbers that Postgres allots go on behind the highest one."""
    for column, sequence in connection.execute(COUNTERS, {"table": table.name}).fetchall():
        highest = sql.SQL("SELECT setval({}, coalesce(max({}), 0) + 1, false) FROM {}")
        connection.execute(highest.format(sql.Literal(sequence), sql.Identifier(column), sql.Identifier(table.name)))


# ---- loose ends -----------------------------------------------------------------------------------------------------


def _tie_up(
    connection: Connection, settings: Settings, contents: Contents, name: str, *, keep_sign_ins: bool
) -> tuple[str, ...]:
    """Nobody who held anything then holds it now. Returns the names of the runs that go on."""
    with Session(connection, join_transaction_mode="create_savepoint") as session, session.begin():
        going_on = _free_runs(session, settings)
        _number_anew(session)
        session.execute(update(Run).where(Run.place == contents.place).values(place=settings.place()))
        _end_operations(session)
        for gone in (Device, Worker, *(() if keep_sign_ins else (SignIn, Invitation, SetupToken))):
            session.execute(delete(gone))
        audit(session, this_machine(session).id, "studio.restore", name)
    return going_on


def _free_runs(session: Session, settings: Settings) -> tuple[str, ...]:
    """Whoever held a run when the backup was taken is not here: it goes on as its person's last word says."""
    holders = session.scalars(select(Run.holder).where(Run.holder.is_not(None)).distinct()).all()
    limits = runs.Limits(settings.crash_limit, settings.attempt_limit)
    freed = [run_id for holder in holders if holder for run_id in runs.free_own(session, holder, limits)]
    return tuple(session.scalars(select(Run.name).where(Run.id.in_(freed)).order_by(Run.name)))


def _number_anew(session: Session) -> None:
    """No run goes on under the number of an attempt that it was given after the backup: what that one made may lie on a worker's
    disk, and whoever holds it may be at work yet. Numbers need not follow each other, they only grow."""
    seconds = func.extract("epoch", func.clock_timestamp() - ATTEMPTS_SINCE).cast(Integer)
    behind_all = func.greatest(Run.attempt + ATTEMPT_GAP, seconds)  # the gap where the clock is wrong
    session.execute(update(Run).where(Run.state != State.SUCCEEDED).values(attempt=behind_all))


def _end_operations(session: Session) -> None:
    """Their uploads are no part of a backup, and a path out of an archive is not to be followed."""
    error = StudioError("The studio was restored from a backup meanwhile.", hint="Do it again.", code="restored")
    ended = {"state": "failed", "error": error.as_json()["error"], "ended_at": func.clock_timestamp()}
    session.execute(update(Operation).where(Operation.state == "running").values(**ended))
