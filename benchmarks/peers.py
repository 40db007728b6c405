"""Peers live in environments that are made for one run and thrown away: they are no dependencies of ours."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
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


@contextmanager
def beside_ours(*alone: str, whole: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """An environment of variables in which our own Python also finds these packages: `alone` without what they need, `whole`
    with it, in the versions that we have. Both sides then compute with the same torch and transformers.
    """
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "ours.txt"
        target = Path(folder) / "site-packages"  # dill goes through the insides of modules that lie elsewhere
        freeze = [sys.executable, "-m", "uv", "pip", "freeze", "--exclude-editable", "--python", sys.executable]
        known.write_text(subprocess.run(freeze, check=True, capture_output=True, text=True).stdout)
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
        install += ["--target", str(target)]
        subprocess.run([*install, "--no-deps", *alone], check=True)
        if whole:
            subprocess.run([*install, "--constraint", str(known), *whole], check=True)
        yield os.environ | {"PYTHONPATH": os.pathsep.join([str(target), str(Path.cwd())])}
