"""Alembic's entry: run the migrations over the URL that `backend.core.db.migrate` hands in."""

from alembic import context
from sqlalchemy import create_engine, pool, text

from backend.core.db import driver_url
from backend.core.models import Base
from backend.core.settings import settings

LOCK = 0x57_55_44_49_4F  # one migration at a time, whichever process starts it


def run() -> None:
    url = context.config.attributes.get("url") or settings().database_url
    engine = create_engine(driver_url(url), poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
        with context.begin_transaction():
            context.run_migrations()
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
        connection.commit()
    engine.dispose()


run()
