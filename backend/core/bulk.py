"""Many rows at once: `COPY`, an order of magnitude faster than an insert that looks for conflicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.orm import DeclarativeBase, Session


def copy(session: Session, model: type[DeclarativeBase], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Append rows in the session's own transaction. The other columns take what the database gives them."""
    if not rows:
        return
    table = model.__table__
    assert isinstance(table, Table)
    named = ", ".join(f'"{table.c[name].name}"' for name in columns)
    connection = session.connection().connection.driver_connection
    assert connection is not None
    with connection.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({named}) FROM STDIN') as stream:
        for row in rows:
            stream.write_row(row)
