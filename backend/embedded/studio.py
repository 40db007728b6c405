"""The studio of one machine: Postgres, Valkey, the supervisor, the Celery worker and the web, kept alive by one process."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from signal import SIGINT

from backend.core.errors import StudioError
from backend.core.settings import Settings
from backend.core.unfinished import refuse_unfinished
from backend.embedded.home import Locked, lock, prepare_home, private_folder, rotated_log, standing_note
from backend.embedded.init import Child, Init, Stopped
from backend.embedded.postgres import Postgres
from backend.embedded.service import last_words
from backend.embedded.spawn import spawn
from backend.embedded.valkey import Valkey

PROBES = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2}
"""Who is cut off while nothing is sent to them is found out in twenty seconds. No `TCP_USER_TIMEOUT`, which ends whatever is not
taken for so long: a download may be paused."""


def up(settings: Settings) -> None:
    """Serve a studio from one folder until SIGTERM or Ctrl-C."""
    os.umask(0o077)
    home = prepare_home(settings.root)
    with only_one(home), listen(settings.host, settings.port) as listener, contextlib.suppress(Stopped), Init() as init:
        address = address_of(settings.host, listener)
        program = Program(settings, home, _services(init, settings, home))
        program.migrate()
        for child in studio_children(program, listener):
            init.start(child)
        init.watch(until=lambda: answers(address))
        with standing_note(home / "run" / "address", address + "\n"):  # for the other commands
            announce(home, address, listener)
            init.watch()


def work(settings: Settings) -> None:
    """Serve as a worker host: a supervisor and a Celery worker, with the Postgres and Redis that the settings name."""
    require_services(settings)
    os.umask(0o077)
    home = prepare_home(settings.root)
    refuse_unfinished(home)
    urls = {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url}
    with contextlib.suppress(Stopped), Init() as init:
        for child in Program(settings, home, urls).worker_children():
            init.start(child)
        init.watch()


def require_services(settings: Settings) -> None:
    """A part of a studio cannot guess where the rest of it is. Raises `StudioError` where it is not told."""
    missing = [
        name for name, url in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url)) if not url
    ]
    if missing:
        hint = f"Set {' and '.join(missing)}. On one machine `studio up` starts everything, services included."
        raise StudioError(
            "This part of a studio needs the Postgres and the Redis of the whole.", hint=hint, code="settings"
        )


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[None]:
    """One `studio up` for each home. Raises `Locked` naming the one that runs."""
    try:
        held = lock(private_folder(home / "run") / "up.lock", note=str(os.getpid()))
    except Locked as error:
        raise Locked(f"A studio already serves {home}: process {error.holder}.", holder=error.holder) from None
    try:
        yield
    finally:
        os.close(held)


def listen(host: str, port: int) -> socket.socket:
    """The socket that people reach. We hold it, so that a restart of the web refuses no connection."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _probe(listener)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        hint = "Set STUDIO_PORT (0 takes a free one) or STUDIO_HOST."
        raise StudioError(f"Cannot listen on {host}:{port}: {error.strerror}.", hint=hint, code="listen") from error
    return listener


def _probe(listener: socket.socket) -> None:
    """Have the system look after each connection that is taken: they inherit this, under Linux with its numbers."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in PROBES.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def address_of(host: str, listener: socket.socket) -> str:
    """The URL to type into a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)
    return f"http://{name}:{listener.getsockname()[1]}"


def _services(init: Init, settings: Settings, home: Path) -> dict[str, str]:
    """Start those services that the settings do not name, side by side; returns the URLs of both."""
    urls = {"DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url}
    ready: list[Callable[[], None]] = []
    if not settings.database_url:
        postgres = Postgres(home)
        rotated_log(home, "postgres")
        process = init.start(Child("postgres", postgres.launch, postgres.log, stop_signal=SIGINT, grace_seconds=20))
        ready.append(lambda: postgres.wait_ready(process))
        urls["DATABASE_URL"] = postgres.url
    if not settings.redis_url:
        valkey = Valkey(home)
        rotated_log(home, "valkey")
        server = init.start(Child("valkey", valkey.launch, valkey.log))
        ready.append(lambda: valkey.wait_ready(server))
        urls["REDIS_URL"] = valkey.url
    for wait in ready:
        wait()
    return urls


@dataclass(frozen=True)
class Program:
    """The studio's own processes: where they keep things, and the services that they use."""

    settings: Settings
    home: Path
    urls: Mapping[str, str]

    def environment(self) -> dict[str, str]:
        """Passwords travel here and never in arguments, which every user of the machine can read."""
        return {**os.environ, "STUDIO_HOME": str(self.home), "PYTHONUNBUFFERED": "1", **self.urls}

    def child(self, name: str, *arguments: str, grace_seconds: float = 10.0, pass_fds: Sequence[int] = ()) -> Child:
        """A Python module of the studio, its output in `home/logs/<name>.log`."""
        log = rotated_log(self.home, name)

        def launch() -> subprocess.Popen[bytes]:
            return spawn([sys.executable, "-m", *arguments], env=self.environment(), log=log, pass_fds=pass_fds)

        return Child(name, launch, log, grace_seconds=grace_seconds)

    def worker_children(self) -> list[Child]:
        """The two processes of a worker host. The supervisor has time to let its trainers save."""
        celery = ("celery", "-A", "worker.main", "worker", "--pool=solo", "--without-gossip", "--without-mingle")
        return [
            self.child("supervisor", "worker.supervisor", grace_seconds=self.settings.stop_seconds + 10),
            self.child("worker", *celery, "--loglevel=INFO"),
        ]

    def web_child(self, listener: socket.socket) -> Child:
        descriptor = listener.fileno()
        return self.child("web", "backend.cli", "web", f"--listen-fd={descriptor}", pass_fds=[descriptor])

    def migrate(self) -> None:
        """Bring the database to today's tables, in a process of its own, so that we stay small."""
        log = rotated_log(self.home, "migrate")
        if spawn([sys.executable, "-m", "backend.cli", "migrate"], env=self.environment(), log=log).wait():
            raise StudioError(
                f"The database could not be migrated: {last_words(log)}", hint=f"See {log}.", code="migrate"
            )


def studio_children(program: Program, listener: socket.socket) -> list[Child]:
    """What `studio up` keeps alive beside the services. The web comes last, so it ends first."""
    return [*program.worker_children(), program.web_child(listener)]


def answers(address: str) -> bool:
    """Whether a web server answers at `address`, whatever it says but that it is broken."""
    host, port = address.removeprefix("http://").rsplit(":", 1)
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=0.3)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def announce(home: Path, address: str, listener: socket.socket) -> None:
    """Say where the studio is, to people."""
    print(f"\nFinetune Studio is ready: {address}")
    link = home / "run" / "setup-link"
    if link.exists():
        print(f"First visit, makes the administrator, works once: {address}{link.read_text().strip()}")
    if not ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback:
        print(
            "Others on the network reach it too, and over plain HTTP anybody there can read along: put TLS before it."
        )
    print(f"Everything lies in {home}. Ctrl-C stops it.\n", flush=True)
