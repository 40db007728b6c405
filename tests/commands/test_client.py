"""How the commands' client asks a real studio: by a token of the machine's own, which it replaces where it holds no more."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backend.commands.access import Access, database_url, local_token
from backend.commands.client import Client, Refused, connect
from backend.core import db, people
from backend.core.models import ApiToken
from backend.core.settings import settings
from tests.journeys.materials import write_alpaca
from tests.support.studios import OUTSIDE, Studio


@pytest.fixture(autouse=True)
def _here(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(OUTSIDE)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STUDIO_HOME", str(studio.home))
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def session(_here: None) -> Iterator[Session]:
    with db.engine_once(database_url(settings())) as engine, Session(engine) as session:
        yield session


def revoke(session: Session, secret: str) -> None:
    session.execute(
        update(ApiToken).where(ApiToken.token_hash == people.hashed(secret)).values(revoked_at=datetime.now(UTC))
    )
    session.commit()


def made(session: Session) -> int:
    session.rollback()  # what others wrote meanwhile is seen
    return session.scalar(select(func.count()).select_from(ApiToken)) or 0


def ask(client: Client, _folder: Path) -> None:
    client.runs(1)


def follow(client: Client, _folder: Path) -> None:
    with pytest.raises(Refused) as refused:
        next(client.events("nothing"))
    assert refused.value.status == 404


def download(client: Client, _folder: Path) -> None:
    with client.download("/api/v1/models", {}) as response:
        assert response.read()


def upload(client: Client, folder: Path) -> None:
    file, sent = write_alpaca(folder / "sent.json"), list[int]()
    client.put_dataset("sent", file, on_bytes=sent.append)
    assert sum(sent) == file.stat().st_size


@pytest.mark.parametrize("act", [ask, follow, download, upload])
def test_a_token_that_holds_no_more_is_replaced_once_and_all_kinds_of_requests_go_on(
    act: Callable[[Client, Path], None], session: Session, tmp_path: Path
) -> None:
    with connect() as client:
        client.runs(1)
        revoke(session, local_token(settings()))
        before = made(session)
        act(client, tmp_path)
        act(client, tmp_path)
    with connect() as client:
        client.runs(1)
    assert made(session) == before + 1


def test_a_token_that_a_person_gave_is_never_replaced(
    studio: Studio, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_TOKEN", "fts_given")
    file = studio.home / "run" / "cli-token"
    before = (made(session), file.read_text() if file.exists() else "")
    with connect() as client, pytest.raises(Refused) as refused:
        client.runs(1)
    assert refused.value.status == 401
    assert (made(session), file.read_text() if file.exists() else "") == before


class Slow(BaseHTTPRequestHandler):
    """Answers a launch when it is asked the second time, with a refusal: while a model is downloaded nobody answers."""

    keys: list[str | None]

    def do_POST(self) -> None:
        self.keys.append(self.headers["Idempotency-Key"])
        self.rfile.read(int(self.headers["Content-Length"]))
        if len(self.keys) == 1:
            time.sleep(1)
            return
        self.send_response(422)
        self.end_headers()
        self.wfile.write(json.dumps({"error": {"message": "Heard."}}).encode())

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def test_a_launch_whose_answer_takes_long_is_waited_for_and_is_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "keys", [], raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with Client(Access(f"http://127.0.0.1:{server.server_port}", "fts_given")) as client:
            client.http.timeout = 0.3
            with pytest.raises(Refused, match="Heard"):
                client.launch({})
        server.shutdown()
    first, again = Slow.keys
    assert first
    assert first == again
