"""Peers live in environments that are made for one run and thrown away: they are no dependencies of ours."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.support.processes import wait_until

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Where noise would decide, a side computes alone on its core."""


def told(command: Sequence[str | Path], /, **environ: str) -> Any:
    """What a program prints as its last line, in JSON: each side works in a process of its own."""
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def serving(python: Path, program: str, /, **environ: str) -> Iterator[tuple[str, psutil.Process]]:
    """A peer that serves at $PORT, from its first answer on: its address and its process."""
    place, quiet = f"127.0.0.1:{(port := free_port())}", subprocess.DEVNULL
    environ |= {"PORT": str(port)}
    process = subprocess.Popen([python, "-c", program], env=os.environ | environ, stdout=quiet, stderr=quiet)
    try:
        wait_until(lambda: answers(place), seconds=60, what="the peer's first answer")
        yield f"http://{place}", psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def answers(place: str, path: str = "/") -> bool:
    """Whether a server says anything at all there."""
    connection = http.client.HTTPConnection(place, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def environment(*packages: str) -> Iterator[Path]:
    """The Python of a new environment that holds these packages, as the index has them today."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, python.parents[1]], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
        yield python


def versions(python: Path | str, *packages: str, **environ: str) -> str:
    """What an environment holds of these, for whoever wants to repeat it: `mlflow 3.1.0, alembic 1.2`."""
    program = "import json, sys; from importlib.metadata import version; "
    program += "print(json.dumps([f'{name} {version(name)}' for name in sys.argv[1:]]))"
    return ", ".join(told([python, "-c", program, *packages], **environ))


def own_versions(*packages: str) -> str:
    """The same of our own environment, where the peer is a library that we use."""
    return ", ".join(f"{name} {version(name)}" for name in packages)


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
