"""The web as a process of its own: what it imports, how fast it is there, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

from backend.core import operations, storage
from backend.core.datasets import store
from backend.core.models import Role
from backend.core.settings import Settings
from backend.core.uploads import Received
from backend.embedded.postgres import SOCKET_NAME
from backend.embedded.studio import listen
from backend.web import studio
from tests.support.bucket import Bucket
from tests.support.links import Link
from tests.support.processes import wait_until
from tests.web.conftest import account, queued_run
from tests.web.test_stream import opened, read_events

HEAVY = ["torch", "transformers", "peft", "bitsandbytes", "pyarrow", "celery", "pandas", "numpy"]


def test_importing_the_web_loads_nothing_heavy() -> None:
    program = f"import sys, json, backend.web.app; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


def test_an_open_stream_does_not_hold_up_the_end(here: Settings, session: Session, tmp_path: Path) -> None:
    who, run = account(session, Role.VIEWER), queued_run(session)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = started(here, listener, tmp_path / "web.log")
    try:
        wait_until_it_answers(address)
        with opened(address, f"/api/v1/runs/{run.id}/events", who) as lines:
            read_events(lines, 1)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert read_events(lines, 1) == []  # closed by the server, before its own deadline
            assert time.monotonic() - began < 2
        process.wait(5)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("trouble", [Link.cut, Link.fall_silent], ids=["refuses", "is silent"])
def test_a_web_whose_postgres_is_away_when_it_starts_says_so_and_begins_when_it_is_back_with_its_tables(
    here: Settings, session: Session, trouble: Callable[[Link], None], tmp_path: Path
) -> None:
    ours = make_url(here.database_url)
    link = Link(Path(str(ours.query["host"])) / SOCKET_NAME)
    theirs = ours.set(host="127.0.0.1", port=link.port).difference_update_query(["host"])
    trouble(link)
    listener, log = listen("127.0.0.1", 0), tmp_path / "web.log"
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    away = here.model_copy(update={"database_url": theirs.render_as_string(hide_password=False)})
    session.execute(text("ALTER TABLE users RENAME TO users_to_come"))  # as before the end of a migration
    session.commit()
    process = started(away, listener, log)
    try:
        wait_until(lambda: "database" in httpx.get(f"{address}/healthz", timeout=60).json().get("away", []), seconds=60)
        answer = httpx.get(f"{address}/setup?token=guess", timeout=60)
        assert (answer.status_code, "database cannot be reached" in answer.text) == (503, True)
        assert not (here.folder("run") / "setup-link").exists()
        link.restore()
        wait_until(lambda: "UndefinedTable" in log.read_text(), seconds=60)
        session.execute(text("ALTER TABLE users_to_come RENAME TO users"))
        session.commit()
        wait_until((here.folder("run") / "setup-link").exists, seconds=60)
        told = httpx.get(address + (here.folder("run") / "setup-link").read_text().strip(), timeout=60)
        assert told.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM  # which uvicorn sends itself once it has ended in order
    finally:
        process.kill()
        process.wait()
        link.close()


async def test_a_bucket_that_is_away_holds_up_no_start_and_is_tidied_when_it_is_back(
    here: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0)
    monkeypatch.setattr(studio, "TIDY_AGAIN_SECONDS", 0.1)
    answers, is_tidied = [b"503 Slow Down"] * 3, asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The bucket lives in the web's own loop, and is silent as long as that stands still."""
        await reader.readuntil(b"\r\n\r\n")
        status = answers.pop() if answers else b"200 OK"
        body = b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body))
        writer.close()
        is_tidied.set() if status == b"200 OK" else None

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        for name, value in Bucket(port=server.sockets[0].getsockname()[1]).environment.items():
            monkeypatch.setenv(name, value)
        async with studio.Studio(here.model_copy(update={"storage_url": Bucket().url})).running():
            assert (here.folder("run") / "setup-link").exists()
            await asyncio.wait_for(is_tidied.wait(), 20)
    assert caplog.text.count("clearing away what broke off: tried again until it succeeds: The storage cannot be") == 1
    assert "the start" not in caplog.text


async def test_an_operation_that_stands_though_nobody_was_told_so_is_taken_up_within_a_minute(
    here: Settings, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres had committed it, and its answer never came: whoever sent the file was told to try again."""
    monkeypatch.setattr(studio, "TAKE_UP_SECONDS", 0.2)
    async with studio.Studio(here).running():
        file = here.folder("uploads") / "file.body"
        file.write_text('{"text": "The owl eats mice."}\n')
        upload = store.upload("owls", "owls.jsonl", Received(file, "0" * 64, file.stat().st_size))
        operation = operations.begin(session, upload)
        session.commit()
        for _ in range(200):
            await asyncio.sleep(0.1)
            session.refresh(operation)
            if operation.state != "running":
                break
        assert operation.state == "succeeded"


def started(here: Settings, listener: socket.socket, log: Path) -> subprocess.Popen[bytes]:
    services = {"STUDIO_HOME": str(here.home), "DATABASE_URL": here.database_url, "REDIS_URL": here.redis_url}
    with open(log, "wb") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "backend.cli", "web", f"--listen-fd={listener.fileno()}"],
            env={**os.environ, **services},
            pass_fds=[listener.fileno()],
            stdout=told,
            stderr=told,
        )


def wait_until_it_answers(address: str) -> None:
    """The listening socket exists before the process does, so the first request just waits."""
    assert httpx.get(f"{address}/healthz", timeout=60).json() == {"status": "ok"}
