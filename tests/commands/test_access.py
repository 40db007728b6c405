"""The token of the machine's own commands, on a real database: it is kept until the studio refuses it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backend.commands.access import find_access, local_token, new_token
from backend.core import db, people
from backend.core.errors import Unauthenticated, Unavailable
from backend.core.models import ApiToken
from backend.core.settings import Settings, settings
from backend.embedded.home import private_folder, write_private


@pytest.fixture
def here(studio_home: object, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:  # noqa: ARG001 -- set up
    monkeypatch.setenv("DATABASE_URL", database_url)
    settings.cache_clear()
    return settings()


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    with db.engine_once(database_url) as engine, Session(engine) as session:
        yield session


def holds(session: Session, token: str) -> bool:
    session.rollback()  # what others wrote meanwhile is seen
    return people.find_bearer(session, token) is not None


def test_a_token_is_kept(here: Settings, session: Session) -> None:
    assert local_token(here) == local_token(here)
    assert session.scalar(select(func.count()).select_from(ApiToken)) == 1


def test_a_token_that_was_revoked_makes_room_for_a_new_one(here: Settings, session: Session) -> None:
    first = local_token(here)
    session.scalars(select(ApiToken)).one().revoked_at = datetime.now(UTC)
    session.commit()
    second = new_token(here, first)
    assert (holds(session, first), holds(session, second)) == (False, True)
    assert local_token(here) == second
    file = here.root / "run" / "cli-token"
    assert (file.read_text(), file.stat().st_mode & 0o777) == (second + "\n", 0o600)


def test_a_database_that_does_not_know_the_token_gets_a_new_one(here: Settings, session: Session) -> None:
    first = local_token(here)
    session.execute(delete(ApiToken))  # as after a restore, and where the database was made anew
    session.commit()
    assert holds(session, new_token(here, first))


def test_for_a_token_that_holds_here_and_is_refused_by_the_studio_none_is_made(
    here: Settings, session: Session
) -> None:
    first = local_token(here)
    with pytest.raises(Unauthenticated, match="does not use the database that is set here"):
        new_token(here, first)
    assert session.scalar(select(func.count()).select_from(ApiToken)) == 1
    assert local_token(here) == first


def test_where_the_database_is_known_to_the_studio_alone_none_is_begun(studio_home: Path) -> None:
    with pytest.raises(Unavailable, match="There is no database"):
        local_token(settings())
    assert not (studio_home / "postgres").exists()


def test_where_the_machines_account_is_disabled_no_token_is_made(here: Settings, session: Session) -> None:
    first = local_token(here)
    people.this_machine(session).disabled_at = datetime.now(UTC)
    session.commit()
    with pytest.raises(Unauthenticated, match="“this machine” is disabled"):
        new_token(here, first)
    assert session.scalar(select(func.count()).select_from(ApiToken)) == 1


def test_a_kept_token_is_used_as_it_is_and_no_database_is_asked_or_begun(studio_home: Path) -> None:
    write_private(private_folder(studio_home / "run") / "cli-token", "fts_kept\n")
    (studio_home / "run" / "address").write_text("http://127.0.0.1:9\n")
    assert find_access(settings()).token == "fts_kept"
    assert not (studio_home / "postgres").exists()


def test_commands_that_need_a_new_token_at_once_share_it(here: Settings, session: Session) -> None:
    first = local_token(here)
    session.execute(delete(ApiToken))
    session.commit()
    with ThreadPoolExecutor() as pool:
        made = set(pool.map(lambda _: new_token(here, first), range(4)))
    assert len(made) == 1
    assert session.scalar(select(func.count()).select_from(ApiToken)) == 1
