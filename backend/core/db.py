"""Connections to Postgres: one driver (psycopg 3) for the synchronous workers and the asynchronous web.

Functions of the core take a synchronous `Session`; the web calls them through `AsyncSession.run_sync`. Only the edge
(a request, a turn of the supervisor) commits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import ArgumentError, OperationalError

from backend.core.errors import StudioError, Unavailable

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}
"""A host that is cut off learns of it in seconds (libpq's own names and units)."""
POOL = {"pool_pre_ping": True, "pool_recycle": 60, "pool_use_lifo": True}
"""A connection is checked before its use, so that a restart of Postgres costs one retry, not an error. Each keeps plans and a
catalogue of its own in Postgres, which grow from 2 to 5 MiB within four minutes of use: so the one used last is used first,
since the idle ones then need none, and each is opened anew once a minute."""
FROZEN_SECONDS = 10
"""A process that stands still in the midst of a transaction keeps its row locks no longer than this: else nobody could take
its run over. Set on each connection, since poolers refuse it among the options of a start."""
KEEPALIVES = ("tcp_keepalives_idle = 10", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 2")
"""How many seconds Postgres itself waits before it lets go of what a host that is cut off had locked: nobody else can take that
work up before. They mean nothing over a Unix socket."""


def driver_url(url: str) -> URL:
    """`postgres://…` and `postgresql://…` as SQLAlchemy wants them for psycopg 3. Raises `StudioError`, which does not
    repeat the address: it may hold a password."""
    try:
        found = make_url(url.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError):
        raise no_address() from None
    if found.get_backend_name() != "postgresql":
        raise no_address()
    return found.set(drivername="postgresql+psycopg")


def no_address() -> StudioError:
    hint = "It looks like postgresql://user:password@host:5432/name."
    return StudioError("DATABASE_URL is no address of a Postgres database.", hint=hint, code="settings")


def engine(url: str, *, pool_size: int = 5) -> Engine:
    """A synchronous engine."""
    made = create_engine(driver_url(url), pool_size=pool_size, connect_args=PATIENCE, **POOL)
    event.listen(made, "connect", _let_go_when_gone)
    return made


@contextmanager
def engine_once(url: str) -> Iterator[Engine]:
    """An engine of one connection for a command that asks and ends. Nothing of it is left open."""
    made = engine(url, pool_size=1)
    try:
        yield made
    finally:
        made.dispose()


def _let_go_when_gone(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    settings = (f"idle_in_transaction_session_timeout = '{FROZEN_SECONDS}s'", *KEEPALIVES)
    cursor.execute("; ".join(f"SET {setting}" for setting in settings))  # one way there and back for each connection
    cursor.close()
    connection.commit()


def async_engine(url: str, *, pool_size: int = 10) -> AsyncEngine:
    from sqlalchemy.ext.asyncio import create_async_engine

    made = create_async_engine(driver_url(url), pool_size=pool_size, max_overflow=20, connect_args=PATIENCE, **POOL)
    event.listen(made.sync_engine, "connect", _let_go_when_gone)
    return made


def migrate(url: str, revision: str = "head") -> None:
    """Bring the schema to `revision`. Two processes that start together wait for each other (an advisory lock in env.py).

    Raises `Unavailable` where there is no Postgres.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["url"] = url
    is_back = revision == "base" or revision.startswith("-")
    try:
        (command.downgrade if is_back else command.upgrade)(config, revision)
    except OperationalError as error:
        hint = "Is Postgres running, and does DATABASE_URL name it rightly?"
        raise Unavailable(f"The database cannot be reached: {error.orig}.", hint=hint) from error


def newest_revision() -> str:
    """That of today's tables."""
    return str(_script().get_current_head())


def is_known(revision: str) -> bool:
    """Whether this program has the tables of that revision: a newer one has more."""
    return any(each.revision == revision for each in _script().walk_revisions())


def _script() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(migrations_folder()))


def migrations_folder() -> Path:
    """Beside the packages in a checkout; inside `backend` in an installed wheel."""
    inside = Path(__file__).resolve().parents[1] / "migrations"
    return inside if inside.is_dir() else ROOT / "migrations"
