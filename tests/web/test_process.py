"""The web as a process of its own: what it imports, how fast it is there, and how it ends."""

from __future__ import annotations

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
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from backend.core.models import Role
from backend.core.settings import Settings
from backend.embedded.postgres import SOCKET_NAME
from backend.embedded.studio import listen
from tests.support.links import Link
from tests.support.processes import wait_until
from tests.web.conftest import account, queued_run
from tests.web.test_stream import opened, read_events

HEAVY = ["torch", "transformers", "peft", "bitsandbytes", "pyarrow", "celery", "pandas", "numpy"]


def test_importing_the_web_loads_nothing_heavy() -> None:
    program = f"import sys, json, backend.web.app; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


def test_an_open_stream_does_not_hold_up_the_end(here: Settings, session: Session) -> None:
    who, run = account(session, Role.VIEWER), queued_run(session)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = started(here, listener)
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
def test_a_web_whose_postgres_is_away_when_it_starts_says_so_and_begins_when_it_is_back(
    here: Settings, trouble: Callable[[Link], None]
) -> None:
    ours = make_url(here.database_url)
    link = Link(Path(str(ours.query["host"])) / SOCKET_NAME)
    theirs = ours.set(host="127.0.0.1", port=link.port).difference_update_query(["host"])
    trouble(link)
    listener = listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    process = started(here.model_copy(update={"database_url": theirs.render_as_string(hide_password=False)}), listener)
    try:
        wait_until(lambda: "database" in httpx.get(f"{address}/healthz", timeout=60).json().get("away", []), seconds=60)
        answer = httpx.get(f"{address}/setup?token=guess", timeout=60)
        assert (answer.status_code, "database cannot be reached" in answer.text) == (503, True)
        assert not (here.folder("run") / "setup-link").exists()
        link.restore()
        wait_until((here.folder("run") / "setup-link").exists, seconds=60)
        told = httpx.get(address + (here.folder("run") / "setup-link").read_text().strip(), timeout=60)
        assert told.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM  # which uvicorn sends itself once it has ended in order
    finally:
        process.kill()
        process.wait()
        link.close()


def started(here: Settings, listener: socket.socket) -> subprocess.Popen[bytes]:
    services = {"STUDIO_HOME": str(here.home), "DATABASE_URL": here.database_url, "REDIS_URL": here.redis_url}
    return subprocess.Popen(
        [sys.executable, "-m", "backend.cli", "web", f"--listen-fd={listener.fileno()}"],
        env={**os.environ, **services},
        pass_fds=[listener.fileno()],
    )


def wait_until_it_answers(address: str) -> None:
    """The listening socket exists before the process does, so the first request just waits."""
    assert httpx.get(f"{address}/healthz", timeout=60).json() == {"status": "ok"}
