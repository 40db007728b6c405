"""Many rows at once: `COPY`, an order of magnitude faster than an insert that looks for conflicts. And many values asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal, TypeVar

import psycopg
from sqlalchemy import ARRAY, ColumnElement, Table, Text, any_, bindparam, cast, func, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session

from backend.core.db import FROZEN_SECONDS

Cell = str | int | float | None
T = TypeVar("T")
PIECE_ROWS = 2000
BINARY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
BINARY_TRAILER = b"\xff\xff"
FROZEN = text(f"""
  SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE datname = current_database() AND usename = current_user AND state = 'active' AND wait_event = 'ClientRead'
    AND query LIKE 'COPY "%' AND query_start < clock_timestamp() - make_interval(secs => {FROZEN_SECONDS})
""")


def among(column: InstrumentedAttribute[T] | ColumnElement[T], values: Iterable[T]) -> ColumnElement[bool]:
    """Whether a column is one of these values, however many: they go as one array. `in_` makes a parameter of each, of which
    Postgres takes 65,535."""
    return column == any_(bindparam(None, list(values), ARRAY(column.type)))


def bytes_before(column: InstrumentedAttribute[Any], *order: Any) -> ColumnElement[int]:
    """What the values of a column fill in the rows before this one: a page that is bounded by bytes ends by it, with one row at
    least."""
    size = func.octet_length(cast(column, Text))
    return func.sum(size).over(order_by=order) - size


def copy(
    session: Session, model: type[DeclarativeBase], columns: Sequence[str], rows: Sequence[Sequence[Cell]]
) -> None:
    """Append rows in the session's own transaction. The other columns take what the database gives them.

    Raises SQLAlchemy's errors, as every other statement does: who tells an outage from a bad value knows no others.
    """
    if rows:
        starts = range(0, len(rows), PIECE_ROWS)
        _send(session, model, columns, "TEXT", (lines(rows[start : start + PIECE_ROWS]) for start in starts))


def copy_packed(
    session: Session, model: type[DeclarativeBase], columns: Sequence[str], pieces: Iterable[bytes]
) -> None:
    """The same of rows in the binary format of COPY, without its header and trailer: numbers are neither written nor read.
    Postgres is asked nothing where every piece is empty.

    https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
    """
    filled = filter(None, pieces)
    if first := next(filled, None):
        _send(session, model, columns, "BINARY", chain((BINARY_HEADER, first), filled, (BINARY_TRAILER,)))


def _send(
    session: Session,
    model: type[DeclarativeBase],
    columns: Sequence[str],
    form: Literal["TEXT", "BINARY"],
    pieces: Iterable[str | bytes],
) -> None:
    """Postgres stores a piece while the next one is written."""
    table = model.__table__
    assert isinstance(table, Table)
    named = ", ".join(f'"{table.c[name].name}"' for name in columns)
    statement = f'COPY "{table.name}" ({named}) FROM STDIN (FORMAT {form})'
    with _translated(session.connection(), statement) as cursor, cursor.copy(statement) as stream:
        for piece in pieces:
            stream.write(piece)


@contextmanager
def _translated(connection: Connection, statement: str) -> Iterator[Any]:
    """A cursor of the driver's own connection; its errors become SQLAlchemy's, and a connection that broke is used no more."""
    driver = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor:  # type: ignore[union-attr]
            yield cursor
    except psycopg.Error as error:
        if connection.dialect.is_disconnect(error, driver, None):  # type: ignore[arg-type]
            connection.invalidate(error)
        raise DBAPIError.instance(statement, None, error, psycopg.Error) from error


def end_frozen(session: Session) -> list[int]:
    """End the connections of whoever stands still in the midst of a `copy`. Returns their processes in Postgres.

    Between two statements Postgres does so itself (`idle_in_transaction_session_timeout`). Where it waits for the rest of a
    COPY it waits without end, and no timeout of its own is heeded, so that the row locks of a frozen host would never be free.
    """
    return [pid for pid, _ in session.execute(FROZEN)]


def lines(rows: Iterable[Sequence[Cell]]) -> str:
    """Rows in the text format of COPY: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".

    The driver can do it row by row; that took half of the time of storing a point.
    """
    return "".join(["\t".join([cell(each) for each in row]) + "\n" for row in rows])


def cell(value: Cell) -> str:
    """A float is written so that it comes back to the last bit; `nan` and `inf` are words that Postgres reads."""
    if isinstance(value, str):
        return value if value.isprintable() and "\\" not in value else _escaped(value)
    return "\\N" if value is None else str(value)


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\\\")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
