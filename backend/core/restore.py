"""A studio out of a backup: every byte is checked before anything is touched, then files, tables and loose ends in order.

A run that was training when the backup was taken is queued again and goes on from its checkpoint. Sign-ins and links end
unless they are asked for, and so does background work on uploads, which are no part of a backup. What an archive says of
people is believed: restore one only from somebody who may be an administrator.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import delete, func, inspect, select, update
from sqlalchemy.orm import Session

from backend.core import backup, db, runs
from backend.core.bundle import HOME, Contents, Damaged, Reader, Table, Tell
from backend.core.errors import Conflict, Invalid, StudioError
from backend.core.models import Device, Invitation, Operation, Run, SetupToken, SignIn, Worker
from backend.core.people import audit, this_machine
from backend.core.settings import Settings
from backend.core.storage import publish_file, storage
from backend.core.uploads import DiskFull

REPLACED = ("runs", "datasets", "uploads")
HAS_TABLES = f"SELECT to_regclass('{backup.VERSIONS}') IS NOT NULL"
SIGNS_OF_LIFE = ("users", "runs", "datasets")
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
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

    Raises `Conflict` where a studio stands already, unless it is to be replaced, and `Damaged`: before anything was touched
    where bytes are wrong, and with no row stored where rows are, which only somebody who made them up can bring about.
    """
    with Reader(path) as archive:
        contents = archive.contents
        _refuse_newer(contents)
        _refuse_company(database_url)
        if not replace:
            _refuse_a_studio(settings, database_url)
        _refuse_what_does_not_fit(settings, contents)
        archive.verify(tell)
        if replace:
            _clear(settings)
        _write_files(settings, archive, tell)
        _load(database_url, archive, tell)
    db.migrate(database_url)
    return _tie_up(settings, database_url, contents, path.name, keep_sign_ins=keep_sign_ins)


# ---- refusals -------------------------------------------------------------------------------------------------------


def _refuse_newer(contents: Contents) -> None:
    if not db.is_known(contents.revision):
        hint = "Update the studio, then restore."
        raise Invalid(
            f"The archive has tables of a newer studio ({contents.revision}).", hint=hint, code="archive.newer"
        )


def _refuse_company(database_url: str) -> None:
    """A studio at work would write into what is being restored."""
    with backup.connected(database_url) as connection:
        (others,) = connection.execute(OTHERS).fetchone() or (0,)
    if others:
        hint = "Stop the web and the workers that use it, then restore."
        raise Conflict(f"{others} other connections use this database.", hint=hint, code="restore.in_use")


def _refuse_a_studio(settings: Settings, database_url: str) -> None:
    hint = "Choose an empty STUDIO_HOME and database, or let --replace remove what is there."
    for name in ("runs", "datasets"):
        if any(settings.folder(name).iterdir()):
            raise Conflict(f"{settings.root / name} is not empty.", hint=hint, code="restore.not_empty")
    with backup.connected(database_url) as connection:
        if _is_lived_in(connection):
            raise Conflict("There is a studio in this database.", hint=hint, code="restore.not_empty")


def _has_tables(connection: psycopg.Connection) -> bool:
    return connection.execute(HAS_TABLES).fetchone() == (True,)


def _is_lived_in(connection: psycopg.Connection) -> bool:
    return _has_tables(connection) and any(
        connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))).fetchone()
        for table in SIGNS_OF_LIFE
    )


def _refuse_what_does_not_fit(settings: Settings, contents: Contents) -> None:
    """An archive may say that it unpacks to more than any disk holds."""
    free = shutil.disk_usage(settings.root).free
    if contents.bytes > free:
        words = f"The archive unpacks to {contents.bytes:,} bytes, and {free:,} are free in {settings.root}."
        raise DiskFull(words, hint="Make room, or choose another STUDIO_HOME.")


# ---- files ----------------------------------------------------------------------------------------------------------


def _clear(settings: Settings) -> None:
    for name in REPLACED:
        shutil.rmtree(settings.folder(name))
        settings.folder(name)


def _write_files(settings: Settings, archive: Reader, tell: Tell) -> None:
    """Data sets go to the storage, wherever that is; everything else lies in the home. A model that is there stays."""
    files = storage(settings)
    for member in archive.contents.files:
        name = member.name.removeprefix(HOME)
        is_there = name.startswith("models/") and (settings.root / name).exists()
        if name == member.name or is_there:  # a table, or nothing to do
            continue
        draft = settings.folder("uploads") / f"{uuid4()}.restored"
        try:
            _write(draft, archive.pieces(member, tell))
            if name.startswith("datasets/"):
                files.publish(draft, name)
            else:
                publish_file(draft, settings.root / name)
        finally:
            draft.unlink(missing_ok=True)


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)


# ---- tables ---------------------------------------------------------------------------------------------------------


def _load(database_url: str, archive: Reader, tell: Tell) -> None:
    """The tables as they were, of the revision that they had, in one transaction."""
    with backup.connected(database_url) as connection:
        has_tables = _has_tables(connection)
    if has_tables:
        db.migrate(database_url, "base")
    db.migrate(database_url, archive.contents.revision)
    order = _in_order(database_url, archive.contents.tables)
    with backup.connected(database_url) as connection, connection.transaction():
        for table in order:
            _load_table(connection, table, archive, tell)
            _set_counters(connection, table)
        if astray := connection.execute(ASTRAY).fetchone():
            raise Damaged(str(astray[0]), "would lie outside of a studio")


def _in_order(database_url: str, tables: Sequence[Table]) -> list[Table]:
    """Tables that others refer to come first. Raises `Invalid` for one that this revision does not have."""
    with db.engine_once(database_url) as engine:
        found = inspect(engine)
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


def _tie_up(settings: Settings, database_url: str, contents: Contents, name: str, *, keep_sign_ins: bool) -> Restored:
    """Nobody who held anything then holds it now."""
    with db.engine_once(database_url) as engine, Session(engine) as session, session.begin():
        going_on = _free_runs(session, settings)
        session.execute(update(Run).where(Run.place == contents.place).values(place=settings.place()))
        _end_operations(session)
        for gone in (Device, Worker, *(() if keep_sign_ins else (SignIn, Invitation, SetupToken))):
            session.execute(delete(gone))
        audit(session, this_machine(session).id, "studio.restore", name)
    return Restored(contents, going_on)


def _free_runs(session: Session, settings: Settings) -> tuple[str, ...]:
    """Whoever held a run when the backup was taken is not here: it goes on as its person's last word says."""
    holders = session.scalars(select(Run.holder).where(Run.holder.is_not(None)).distinct()).all()
    limits = runs.Limits(settings.crash_limit, settings.attempt_limit)
    freed = [run_id for holder in holders if holder for run_id in runs.free_own(session, holder, limits)]
    return tuple(session.scalars(select(Run.name).where(Run.id.in_(freed)).order_by(Run.name)))


def _end_operations(session: Session) -> None:
    """Their uploads are no part of a backup, and a path out of an archive is not to be followed."""
    error = StudioError("The studio was restored from a backup meanwhile.", hint="Do it again.", code="restored")
    ended = {"state": "failed", "error": error.as_json()["error"], "ended_at": func.clock_timestamp()}
    session.execute(update(Operation).where(Operation.state == "running").values(**ended))
