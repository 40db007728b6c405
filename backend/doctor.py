"""`studio doctor`: what this machine has, what it lacks, and how to get it, in plain words."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from backend.core.errors import StudioError
from backend.core.settings import Settings
from backend.embedded import postgres, valkey
from backend.embedded.account import namespaces_work
from backend.embedded.home import prepare_home, socket_folder

GIB = 1024**3
ROOMY_GIB = 20
PROBE = """
import json, torch, transformers, peft, bitsandbytes
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
names = [f"{g.name} ({g.total_memory / 1024**3:.0f} GiB)" for g in gpus]
versions = {m.__name__: m.__version__ for m in (torch, transformers, peft, bitsandbytes)}
print(json.dumps({"versions": versions, "gpus": names}))
"""


class Verdict(StrEnum):
    GOOD = "ok"
    NOTE = "note"
    BAD = "BAD"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `hint` says what to do where it is not as it should be."""

    subject: str
    verdict: Verdict
    words: str
    hint: str = ""

    @property
    def is_fatal(self) -> bool:
        return self.verdict is Verdict.BAD

    def __str__(self) -> str:
        hint = f"\n{'':19}→ {self.hint}" if self.hint else ""
        return f"{self.verdict:<5}{self.subject:<14}{self.words}{hint}"


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; `studio up` works where no finding is fatal."""
    return [
        _python(),
        _training(),
        *_home(settings),
        _database(settings),
        _queue(settings),
        _page(),
    ]


def _python() -> Finding:
    words = f"{platform.python_version()} at {sys.executable}, {os.cpu_count()} processors, {platform.platform()}"
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("Python", Verdict.GOOD, words)
    return Finding("Python", Verdict.BAD, words, "Install Python 3.11, 3.12 or 3.13.")


def _training() -> Finding:
    """Asked of a process of its own: importing torch takes seconds and hundreds of megabytes."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        hint = 'Install them: pip install "finetune-studio[worker]". A machine that only serves the web needs none.'
        return Finding("training", Verdict.NOTE, f"the training libraries do not load: {reason}", hint)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    devices = ", ".join(found["gpus"]) or "no GPU that torch can use, so runs train on the CPU"
    return Finding("training", Verdict.GOOD, f"{versions}; {devices}")


def _home(settings: Settings) -> Iterator[Finding]:
    try:
        home = prepare_home(settings.root)
        socket_folder(home, postgres.SOCKET_NAME)
    except StudioError as error:
        yield Finding("home", Verdict.BAD, error.message, error.hint)
        return
    if home.stat().st_mode & 0o077:
        hint = f"Run: chmod 700 {home}"
        yield Finding("home", Verdict.NOTE, f"{home} can be entered by other users; secrets in it cannot be read", hint)
    else:
        yield Finding("home", Verdict.GOOD, f"{home}, private to this user")
    yield _space(home)


def _space(home: Path) -> Finding:
    free = shutil.disk_usage(home).free / GIB
    if free >= ROOMY_GIB:
        return Finding("disk", Verdict.GOOD, f"{free:.0f} GiB free")
    hint = "A checkpoint of a full run of a 7B model takes about 80 GiB, a LoRA one well under 1 GiB."
    return Finding("disk", Verdict.NOTE, f"only {free:.1f} GiB free", hint)


def _database(settings: Settings) -> Finding:
    if settings.database_url:
        return _reached("Postgres", "DATABASE_URL", postgres.reachable(settings.database_url))
    found = next(postgres.installed(), None)
    if found is None:
        return Finding("Postgres", Verdict.BAD, "none found on this machine", postgres.HINT)
    return Finding("Postgres", Verdict.GOOD, f"version {found.major}, embedded, {_account()}")


def _account() -> str:
    if os.geteuid() != 0:
        return "run by this user"
    if namespaces_work():
        return "run by root in a user namespace"
    return "run by `nobody`, for this is root and user namespaces are refused"


def _queue(settings: Settings) -> Finding:
    if settings.redis_url:
        return _reached("Valkey", "REDIS_URL", valkey.reachable(settings.redis_url))
    found = next(valkey.installed(), None)
    if found is None:
        return Finding("Valkey", Verdict.BAD, "none found on this machine", valkey.HINT)
    return Finding("Valkey", Verdict.GOOD, f"embedded, {found.name}")


def _reached(subject: str, variable: str, works: bool) -> Finding:
    if works:
        return Finding(subject, Verdict.GOOD, f"the one that {variable} names answers")
    hint = f"Check the address, the password and the network; or unset {variable} to use the embedded one."
    return Finding(subject, Verdict.BAD, f"the one that {variable} names does not answer", hint)


def _page() -> Finding:
    manifest = Path(__file__).parent / "web" / "static" / "manifest.json"
    if manifest.exists():
        return Finding("front end", Verdict.GOOD, "built")
    return Finding("front end", Verdict.BAD, "not built", "Run: make front  (or install the package again).")
