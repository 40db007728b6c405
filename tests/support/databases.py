"""Migrated databases of a test's own: cloned from a template of the test process's Postgres, or with a Postgres of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import Engine

from backend.core import db
from backend.embedded.postgres import start_postgres
from backend.embedded.service import Service
from tests.support.homes import short_home


@contextmanager
def fresh_database(server: Service, template: str) -> Iterator[str]:
    """The URL of an empty, migrated database that is gone when the context ends."""
    name = f"test_{uuid4().hex}"
    create_database(server, name, template)
    yield url_of(server, name)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def create_database(server: Service, name: str, template: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY wal_log")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))


@contextmanager
def own_postgres(*, fast: bool = True) -> Iterator[Engine]:
    """An empty, migrated database with a Postgres of its own, for programs that are no tests. `fast` waits for no disk."""
    with short_home() as home:
        postgres = start_postgres(home, fast=fast)
        try:
            db.migrate(postgres.url)
            engine = db.engine(postgres.url)
            yield engine
            engine.dispose()
        finally:
            postgres.stop()


def url_of(server: Service, name: str) -> str:
    """The same server, another database."""
    front, query = server.url.split("?", 1)
    return f"{front.rsplit('/', 1)[0]}/{name}?{query}"
