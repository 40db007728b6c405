"""Peers live in environments that are made for one run and thrown away: they are no dependencies of ours."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def environment(*packages: str) -> Iterator[Path]:
    """The Python of a new environment that holds these packages, as the index has them today."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, python.parents[1]], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
        yield python


def free_port() -> int:
    """For a program that wants to be told its port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
