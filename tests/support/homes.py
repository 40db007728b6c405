"""Homes for studios that tests start: their paths are short enough for sockets."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from backend.embedded.account import SYSTEM_DATA
from backend.embedded.home import digest_of
from tests.support.processes import processes_of

DYING_SECONDS = 10.0
PREFIX = "fts-"


def own_home(folder: Path) -> Path:
    """A home in `folder` for as long as this process lives: its name tells whose it is. Those of processes that were killed
    are swept away."""
    for left in folder.glob(f"{PREFIX}*-*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=folder)).resolve()


@contextlib.contextmanager
def short_home() -> Iterator[Path]:
    """Fails where a process of it is left at the end, and ends that."""
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp")).resolve()
    yield path
    deadline = time.monotonic() + DYING_SECONDS
    while (left := processes_of(path)) and time.monotonic() < deadline:
        time.sleep(0.05)  # what was killed dies when the machine comes to it
    for process in left:
        process.kill()
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(SYSTEM_DATA / digest_of(path), ignore_errors=True)
    assert not left, f"left running: {left}"
