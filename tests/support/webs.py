"""The web alone as a process of its own, with services of its own and nothing that trains: what is looked at stands still."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from backend.commands.access import Access
from backend.commands.client import Client
from backend.core import db, people
from backend.core.models import Role, User
from backend.core.people import Identity
from backend.core.settings import Settings
from backend.embedded.postgres import start_postgres
from backend.embedded.studio import listen
from backend.embedded.valkey import start_valkey
from tests.support.homes import short_home
from tests.support.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of a studio, which speaks plain HTTP: else each of them reads every authority there is, which takes 30 ms."""


@dataclass(frozen=True)
class SignedIn:
    """Somebody with a cookie."""

    identity: Identity
    cookie: str


@dataclass(frozen=True)
class Web:
    """A web that runs. Nobody has been set up yet."""

    home: Path
    address: str
    settings: Settings
    engine: Engine
    process: subprocess.Popen[bytes]

    def session(self) -> Session:
        """The database beside the web; what is written, the caller commits."""
        return Session(self.engine, expire_on_commit=False)

    def sign_in(self, name: str, role: Role = Role.ADMIN, password_hash: str = "no password") -> SignedIn:
        """Somebody new and a cookie of theirs. Without a slow hash, which most callers need not."""
        with self.session() as session:
            user = people.by_name(session, name) or people.create(session, name, password_hash, role, by=None)
            cookie = people.sign_in(session, user, "Firefox on Linux", hours=1)
            identity = people.find_session(session, cookie)
            session.commit()
        assert identity
        return SignedIn(identity, cookie)

    def client(self, owner: Identity) -> Client:
        """A program of `owner`'s."""
        with self.session() as session:
            user = session.get_one(User, owner.id)
            made = people.create_token(session, user, "laptop", role=Role(user.role), days=90, by=user.id)
            session.commit()
        return Client(Access(self.address, made.secret))


@contextmanager
def running_web(*models: Path, fast: bool = True, **settings: str) -> Iterator[Web]:
    """A web over an empty home, with `models` under its model root; gone without a trace when the context ends. Its Postgres
    waits for no disk where it is `fast`."""
    with short_home() as home:
        for model in models:
            shutil.copytree(model, home / "models" / model.name)
        postgres, valkey = start_postgres(home, fast=fast), start_valkey(home)
        try:
            db.migrate(postgres.url)
            with web_over(home, {"DATABASE_URL": postgres.url, "REDIS_URL": valkey.url, **settings}) as web:
                yield web
        finally:
            valkey.stop()
            postgres.stop()


@contextmanager
def web_over(home: Path, urls: dict[str, str]) -> Iterator[Web]:
    """A web over a home and services that are there already, and stay."""
    (home / "logs").mkdir(exist_ok=True)
    listener = listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STUDIO_")}
    command = [sys.executable, "-m", "backend.cli", "web", "--listen-fd", str(listener.fileno())]
    environment = kept | urls | {"STUDIO_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with open(home / "logs" / "web.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, pass_fds=[listener.fileno()]
        )
    listener.close()
    here = Settings(home=home, DATABASE_URL=urls["DATABASE_URL"], REDIS_URL=urls["REDIS_URL"])
    engine = db.engine(here.database_url, pool_size=2)
    try:
        wait_until(lambda: process.poll() is not None or _answers(address), seconds=60, what="the web's first answer")
        assert process.poll() is None, (home / "logs" / "web.log").read_text()
        yield Web(home, address, here, engine, process)
    finally:
        engine.dispose()
        process.terminate()
        process.wait(20)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/healthz", trust_env=False, verify=PLAIN, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
