"""`studio doctor`: what this machine has, what it lacks, and how to get it, in plain words."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from backend.core.errors import StudioError
from backend.core.settings import Settings
from backend.embedded import postgres, valkey
from backend.embedded.account import namespaces_work
from backend.embedded.home import prepare_home, socket_folder

GIB = 1024**3
ROOMY_GIB = 20
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
PROBE = """
import json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps([f"{gpu.name} ({gpu.total_memory / 1024**3:.0f} GiB)" for gpu in gpus]))
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
    """Look at everything, the training libraries included, whose loading takes seconds."""
    return [*examine_host(settings), _training()]


def examine_host(settings: Settings) -> list[Finding]:
    """What `studio up` needs: it works where no finding is fatal."""
    return [_python(), _home(settings.root), _space(settings.root), _database(settings), _queue(settings), _page()]


def _python() -> Finding:
    words = f"{platform.python_version()} at {sys.executable}, {os.cpu_count()} processors, {platform.platform()}"
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("Python", Verdict.GOOD, words)
    return Finding("Python", Verdict.BAD, words, "Install Python 3.11, 3.12 or 3.13.")


def _training() -> Finding:
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        hint = 'Install them: pip install "finetune-studio[worker]". A machine that only serves the web needs none.'
        return Finding("training", Verdict.NOTE, f"not installed: {', '.join(missing)}", hint)
    # Asked of a process of its own, which takes the memory with it.
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Finding("training", Verdict.BAD, f"torch does not load: {reason}", "Install it again, for this machine.")
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    devices = ", ".join(json.loads(done.stdout)) or "no GPU that torch can use, so runs train on the CPU"
    return Finding("training", Verdict.GOOD, f"{versions}; {devices}")


def _home(home: Path) -> Finding:
    if not home.exists():
        return Finding("home", Verdict.GOOD, f"{home}, made at the first start")
    try:
        socket_folder(prepare_home(home), postgres.SOCKET_NAME)
    except StudioError as error:
        return Finding("home", Verdict.BAD, error.message, error.hint)
    if home.stat().st_mode & 0o077:
        words = f"{home} can be entered by other users; its passwords cannot be read"
        return Finding("home", Verdict.NOTE, words, f"Run: chmod 700 {home}")
    return Finding("home", Verdict.GOOD, f"{home}, private to this user")


def _space(home: Path) -> Finding:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / GIB
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
