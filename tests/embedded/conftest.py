"""A home with a path short enough for sockets, which is empty of processes again when the test ends."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.embedded.account import SYSTEM_DATA
from backend.embedded.home import digest_of
from tests.support.processes import processes_of


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="fts-", dir="/tmp")).resolve()
    yield path
    left = processes_of(path)
    for process in left:
        process.kill()
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(SYSTEM_DATA / digest_of(path), ignore_errors=True)
    assert not left, f"left running: {left}"
