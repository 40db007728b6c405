"""The token of the machine's own commands, on a real database: it is kept until the studio refuses it, and sent to no other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backend.commands.access import find_access, local_token, new_token
from backend.commands.client import Client, Unreachable
from backend.core import db, people
from backend.core.errors import Unauthenticated, Unavailable
from backend.core.models import ApiToken
from backend.core.settings import Settings, settings
from backend.embedded.home import private_folder, standing_note, write_private
from backend.embedded.studio import only_one


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


def keep_a_token(home: Path) -> None:
    write_private(private_folder(home / "run") / "cli-token", "fts_kept\n")


def test_a_kept_token_is_used_as_it_is_and_no_database_is_asked_or_begun(studio_home: Path) -> None:
    keep_a_token(studio_home)
    with standing_note(studio_home / "run" / "address", "http://127.0.0.1:9\n"):
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


@pytest.mark.parametrize("given", ["", "fts_given"])
def test_an_address_that_a_killed_studio_left_is_not_believed_whoever_has_the_home_to_themselves(
    studio_home: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """A restore holds the same lock as the studio and serves nobody."""
    monkeypatch.setenv("STUDIO_TOKEN", given)
    keep_a_token(studio_home)
    (studio_home / "run" / "address").write_text("http://127.0.0.1:9\n")
    for _ in range(2):
        with pytest.raises(Unavailable, match="No studio serves") as refusal:
            find_access(settings())
        assert "`studio up`" in refusal.value.hint
        with only_one(studio_home), pytest.raises(Unavailable, match="No studio serves"):
            find_access(settings())


@contextmanager
def listening(heard: list[str | None]) -> Iterator[str]:
    """The address of somebody who keeps the tokens that come, at a port that a studio may have had."""

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers["Authorization"])
            self.send_response(503)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("given", ["", "fts_kept"])
def test_a_command_that_outlives_its_studio_sends_the_token_to_nobody_who_listens_there_next(
    studio_home: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("STUDIO_TOKEN", given)
    keep_a_token(studio_home)
    heard = list[str | None]()
    with listening(heard) as address:
        with standing_note(studio_home / "run" / "address", address + "\n"):
            client = Client(find_access(settings()), patience_seconds=0)
            with pytest.raises(Unreachable):
                next(client.events("first"))
            assert heard == ["Bearer fts_kept"]
        with pytest.raises(Unreachable, match="no studio of this home serves there"):
            client.runs(1)
        with client, pytest.raises(Unreachable, match="no studio of this home serves there"):
            next(client.events("first"))
    assert heard == ["Bearer fts_kept"]
