"""A studio whose every process, and every connection between two of them, can be struck: one web and two worker hosts.

The hosts share the storage as two machines do: each has a home, and with it an accelerator, of its own, and the folders
of runs, data sets and models are links into the one that they share.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx
import psycopg

from backend.commands.access import Access, make_token
from backend.commands.client import Client
from backend.core.settings import Settings
from backend.embedded.account import SYSTEM_DATA
from backend.embedded.home import digest_of, prepare_home
from backend.embedded.postgres import DATABASE, ROLE, SOCKET_NAME, Postgres
from backend.embedded.service import stop_process
from backend.embedded.studio import Program, listen
from backend.embedded.valkey import Valkey
from tests.journeys.materials import write_alpaca
from tests.support.clocks import wrong_clock
from tests.support.disks import mounted
from tests.support.links import Link
from tests.support.processes import is_alive, processes_of, wait_until

HOSTS = ("a", "b")
SETTINGS = {
    "STUDIO_LEASE_SECONDS": "3",
    "STUDIO_RENEW_SECONDS": "0.5",
    "STUDIO_STOP_SECONDS": "20",
    "STUDIO_DEVICES": "cpu",
    "STUDIO_INLINE_MIB": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
SHARED_FOLDERS = ("runs", "datasets", "models", "uploads")
DISK_MIB = 2048
"""For the runs of one studio. A disk in memory takes only what lies on it."""
START_SECONDS = 120.0
STOP_SECONDS = 60.0


@dataclass
class Part:
    """One process, a child of the runner. `is_wanted`: nobody struck it, so that it is to run."""

    name: str
    launch: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes] | None = None
    is_wanted: bool = False
    started: float = 0.0

    def start(self) -> None:
        self.started = time.time()
        self.process, self.is_wanted = self.launch(), True

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and the end of it seen."""
        self.is_wanted = False
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """In order; by force where it does not end."""
        self.is_wanted = False
        if self.process is not None:
            self.send(signal.SIGCONT)
            stop_process(self.process, number, STOP_SECONDS)

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Studio:
    """The parts by name, and the links between them: `a-postgres` is how host a reaches Postgres. `clocks` tells by how many
    hours a host's clock is ahead."""

    def __init__(self, home: Path, clocks: Mapping[str, int]) -> None:
        self.home, self.clocks = home, clocks
        self.postgres, self.valkey = Postgres(home), Valkey(home)
        self.parts: dict[str, Part] = {}
        self.links: dict[str, Link] = {}
        self.disk: Path | None = None
        """A small one on which the runs lie; none where this machine lets us mount none."""
        self._disks = ExitStack()
        self._token = ""
        self._listener: socket.socket | None = None

    @property
    def scratch(self) -> Path:
        """Where our own parts put what is to be gone soon."""
        return self.home / "scratch"

    # ---- the start -----------------------------------------------------------------------------------------------

    def start(self, base: Path) -> None:
        """Everything, with the tiny model and a data set; returns when the web answers."""
        self._lay_out(base)
        self._start_services()
        self._listener = listen("127.0.0.1", 0)
        self.links["client-web"] = Link(f"http://127.0.0.1:{self._listener.getsockname()[1]}")
        web = self._program("web", self.home)
        web.migrate()
        self._token = make_token(self.postgres.url)
        self._add("web", web.web_child(self._listener).launch)
        for host in HOSTS:
            children = self._program(host, self.home / host).worker_children()
            for part, child in zip(("supervisor", "celery"), children, strict=True):
                self._add(f"{part}-{host}", child.launch)
        wait_until(self.answers, seconds=START_SECONDS, what="the web's first answer")
        with self.client(START_SECONDS) as client:
            client.put_dataset("owls", write_alpaca(self.home / "owls.json"), on_bytes=lambda _count: None)

    def _lay_out(self, base: Path) -> None:
        prepare_home(self.home)
        self.scratch.mkdir()
        shutil.copytree(base, self.home / "models" / "tiny")
        for name in SHARED_FOLDERS:
            (self.home / name).mkdir(exist_ok=True)
        if refusal := self._disks.enter_context(mounted(self.home / "runs", DISK_MIB)):
            print(f"no disk is filled: this machine lets us mount no small one: {refusal}", flush=True)
        else:
            self.disk = self.home / "runs"
        place = Settings(home=self.home).place()
        for host in HOSTS:
            (self.home / host / "run").mkdir(parents=True)
            (self.home / host / "run" / "place").write_text(place)
            for name in SHARED_FOLDERS:
                (self.home / host / name).symlink_to(self.home / name)

    def _start_services(self) -> None:
        for name, service in (("postgres", self.postgres), ("valkey", self.valkey)):
            self._add(name, service.launch)
            process = self.parts[name].process
            assert process is not None
            service.wait_ready(process)

    def _add(self, name: str, launch: Callable[[], subprocess.Popen[bytes]]) -> None:
        self.parts[name] = Part(name, launch)
        self.parts[name].start()

    def _program(self, who: str, home: Path) -> Program:
        """What `studio up` starts, told to reach its services through links of its own."""
        postgres = self._link(f"{who}-postgres", self.postgres.sockets / SOCKET_NAME)
        valkey = self._link(f"{who}-valkey", self.valkey.socket)
        told = SETTINGS | {
            "STUDIO_WORKER_NAME": who,
            "TMPDIR": str(self.scratch),
            "DATABASE_URL": f"postgresql://{ROLE}:{quote(self.postgres.password)}@127.0.0.1:{postgres.port}/{DATABASE}",
            "REDIS_URL": f"redis://:{quote(self.valkey.password)}@127.0.0.1:{valkey.port}/0",
        }
        if hours := self.clocks.get(who):
            told |= wrong_clock(self.home / f"clock-{who}", hours)
        return Program(Settings(home=home), home, told)

    def _link(self, name: str, target: Path) -> Link:
        link = self.links[name] = Link(target)
        return link

    # ---- while it runs -------------------------------------------------------------------------------------------

    def client(self, patience_seconds: float) -> Client:
        """Somebody outside, on the far side of the link to the web."""
        return Client(Access(self.links["client-web"].address, self._token), patience_seconds=patience_seconds)

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.links['client-web'].address}/healthz", trust_env=False, timeout=2).is_success
        return False

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """To Postgres itself, past every link. Raises `psycopg.OperationalError` while it is down."""
        return psycopg.connect(self.postgres.url, autocommit=True, connect_timeout=2)

    def logs(self) -> str:
        """The ends of all logs, for a failure's report."""
        files = sorted(self.home.rglob("logs/*.log"))
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-2000:]}" for path in files)

    def heal(self) -> None:
        """Every link passes and every part runs."""
        for link in self.links.values():
            link.restore()
        for part in self.parts.values():
            part.send(signal.SIGCONT)
            if not part.is_alive:
                part.start()

    def stop(self) -> None:
        """In order: the web first, the services last. What is left running then is an orphan."""
        names = ["web", *(f"{part}-{host}" for host in HOSTS for part in ("celery", "supervisor")), "valkey"]
        for name in names:
            if name in self.parts:
                self.parts[name].stop()
        if "postgres" in self.parts:
            self.parts["postgres"].stop(signal.SIGINT)

    def end(self) -> None:
        """At once, whatever state it is in."""
        for part in self.parts.values():
            part.kill()
        for link in self.links.values():
            link.close()
        if self._listener is not None:
            self._listener.close()
        for process in processes_of(self.home):
            with suppress(OSError):
                process.kill()
        wait_until(partial(_is_empty, self.home), seconds=30, what="the end of every process")
        self._disks.close()


def _is_empty(home: Path) -> bool:
    return not [process for process in processes_of(home) if is_alive(process)]


@contextmanager
def running_studio(base: Path, clocks: Mapping[str, int]) -> Iterator[Studio]:
    """A studio over a home of its own; nothing of it is left running when the context ends."""
    home = Path(tempfile.mkdtemp(prefix="fts-", dir="/tmp")).resolve()
    studio = Studio(home, clocks)
    try:
        studio.start(base)
        yield studio
    except BaseException:
        print(studio.logs())
        raise
    finally:
        studio.end()
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(SYSTEM_DATA / digest_of(home), ignore_errors=True)
