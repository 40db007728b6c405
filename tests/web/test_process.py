"""The web as a process of its own: what it imports, how fast it is there, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
from sqlalchemy.orm import Session

from backend.core.models import Role
from backend.core.settings import Settings
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
