"""A whole real studio for a test: `studio up` over a home of its own, with tiny base models, as a person would have it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from backend.commands.access import Access
from backend.commands.client import Client
from backend.embedded.account import SYSTEM_DATA
from backend.embedded.home import digest_of
from tests.support.processes import processes_of, wait_until

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "four quiet words here"
FAST = {
    "STUDIO_LEASE_SECONDS": "4",
    "STUDIO_RENEW_SECONDS": "0.5",
    "STUDIO_DEVICES": "cpu",
    "STUDIO_PORT": "0",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
START_SECONDS = 90.0
OUTSIDE = ("STUDIO_", "DATABASE_URL", "REDIS_URL")
"""Beginnings of names that would tie a test's studio to somebody else's."""


@dataclass
class Studio:
    """A studio that runs. What is killed inside it, it mends by itself."""

    home: Path
    process: subprocess.Popen[bytes]
    environment: dict[str, str] = field(repr=False)

    @property
    def address(self) -> str:
        return (self.home / "run" / "address").read_text().strip()

    @property
    def setup_link(self) -> str:
        return self.address + (self.home / "run" / "setup-link").read_text().strip()

    def said(self) -> str:
        return (self.home / "logs" / "up.log").read_text(errors="replace")

    def command(
        self, *arguments: str | Path, check: bool = True, seconds: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """`studio …`, as somebody at this machine types it."""
        done = subprocess.run(
            [sys.executable, "-m", "backend.cli", *map(str, arguments)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}\n{self.logs()}"
        return done

    def client(self) -> Client:
        """With a token of the machine's own account, as `studio token create` prints it."""
        return Client(Access(self.address, self.command("token", "create", "tests", "--role", "admin").stdout.strip()))

    def children(self, name: str) -> list[psutil.Process]:
        """The processes of this studio that have `name` in their arguments, the oldest first."""
        return processes_of(self.home, name)

    def stop(self) -> None:
        """In order, as Ctrl-C does. Fails where anything is left running."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.logs()
        left = processes_of(self.home)
        assert not left, f"left running: {left}"

    def logs(self) -> str:
        """The ends of all logs, for a failure's report."""
        files = sorted((self.home / "logs").glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in files)


def first_admin(studio: Studio, name: str = "ada") -> httpx.Client:
    """A browser's cookies after the set-up link was followed and its form sent; it writes with the CSRF token of the page."""
    client = httpx.Client(base_url=studio.address, follow_redirects=True, trust_env=False, timeout=30)
    link = studio.setup_link
    page = client.get(link)
    assert page.status_code == 200, page.text
    token = link.partition("token=")[2]
    form = {"token": token, "name": name, "password": PASSWORD, "again": PASSWORD}
    home = client.post("/setup", data=form, headers={"Origin": studio.address})
    assert home.status_code == 200, home.text
    csrf = re.search(r'data-csrf="([^"]+)"', home.text)
    assert csrf, home.text
    client.headers.update({"X-CSRF-Token": csrf[1], "Origin": studio.address})
    return client


@contextmanager
def running_studio(*models: Path, **settings: str) -> Iterator[Studio]:
    """A studio over an empty home, with `models` under its model root; gone without a trace when the context ends."""
    home = Path(tempfile.mkdtemp(prefix="fts-", dir="/tmp")).resolve()
    for model in models:
        shutil.copytree(model, home / "models" / model.name)
    with studio_over(home, **settings) as studio:
        yield studio


def environment_of(home: Path, **settings: str) -> dict[str, str]:
    """What a command of the studio in `home` is started with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OUTSIDE)}
    return kept | FAST | settings | {"STUDIO_HOME": str(home)}


@contextmanager
def studio_over(home: Path, **settings: str) -> Iterator[Studio]:
    """A studio over this home, which is gone with it when the context ends."""
    (home / "logs").mkdir(mode=0o700, exist_ok=True)
    environment = environment_of(home, **settings)
    with open(home / "logs" / "up.log", "wb") as log:
        command = [sys.executable, "-m", "backend.cli", "up"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    studio = Studio(home, process, environment)
    try:
        wait_until(lambda: is_ready(studio), seconds=START_SECONDS, what="the start of the studio")
        yield studio
    finally:
        process.kill()
        process.wait()
        wait_until(lambda: not processes_of(home), seconds=10, what="the end of everything")
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(SYSTEM_DATA / digest_of(home), ignore_errors=True)


def is_ready(studio: Studio) -> bool:
    assert studio.process.poll() is None, f"the studio ended:\n{studio.logs()}"
    return "is ready" in studio.said()
