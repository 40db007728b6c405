"""What a studio at rest should no longer have: orphans, zombies, descriptors of runs that are over, half-written files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import redis

from backend.core.queue import POKE, celery_app
from tests.faults.history import Leftover
from tests.faults.parts import Studio
from tests.support.processes import processes_of

RUN_FILES = ("runs", "datasets", "uploads", "models")
QUEUE = "studio"
MOST_DESCRIPTORS = 100
"""A process at rest has its log, its sockets and at most thirty connections to Postgres. Postgres itself keeps the files of its
tables open, some hundred apiece."""
HALF_WRITTEN = (".tmp-*", "*.tmp", "*.part", "*.partial", "*.draft", "*.body")


def at_rest(studio: Studio, seconds: float) -> list[Leftover]:
    """What is still there so long after the last run ended, while every part runs: then a trainer is nobody's, and a
    run's file nobody's to read."""
    deadline = time.monotonic() + seconds
    while (found := _found(studio)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _found(studio: Studio) -> list[Leftover]:
    return [*_trainers(studio), *_zombies(studio), *_descriptors(studio), *_files(studio.home)]


def unheard_hints(studio: Studio, seconds: float) -> int:
    """How many hints still wait in Valkey after so long: Celery's workers are to take them, whatever befell their connections."""
    deadline = time.monotonic() + seconds
    with redis.Redis.from_url(studio.valkey.url) as client:
        celery_app(studio.valkey.url).send_task(POKE, args=["nothing"])
        while (waiting := int(client.llen(QUEUE))) and time.monotonic() < deadline:
            time.sleep(0.1)
    return waiting


def after_the_end(studio: Studio) -> list[Leftover]:
    """Called after every part was stopped in order."""
    return [Leftover("process", _name(process)) for process in processes_of(studio.home)]


def _trainers(studio: Studio) -> Iterator[Leftover]:
    """One spare for each supervisor may be there, its child; any other trainer is an orphan."""
    supervisors = {part.process.pid for name, part in studio.parts.items() if "supervisor" in name and part.process}
    spares: set[int] = set()
    for process in processes_of(studio.home):
        with suppress(psutil.NoSuchProcess):
            if "worker.trainer" not in " ".join(process.cmdline()):
                continue
            parent = process.ppid()
            if parent not in supervisors or parent in spares:
                yield Leftover("process", _name(process))
            spares.add(parent)


def _zombies(studio: Studio) -> Iterator[Leftover]:
    for name, part in studio.parts.items():
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(part.process.pid).children(recursive=True) if part.process else []:
                if child.status() == psutil.STATUS_ZOMBIE:
                    yield Leftover("zombie", f"{child.pid}, a child of {name}")


def _descriptors(studio: Studio) -> Iterator[Leftover]:
    """A file of a run or an upload that a process of the studio still holds open; more of them than it has a use for."""
    folders = [str(studio.home / name) for name in RUN_FILES]
    for process in processes_of(studio.home):
        paths = list(_open_files(process))
        held = [path for path in paths if any(path.startswith(folder) for folder in folders)]
        yield from (Leftover("descriptor", f"{path} in {_name(process)}") for path in held)
        if len(paths) > MOST_DESCRIPTORS and not _is_of_postgres(process):
            yield Leftover("descriptor", f"{len(paths)} in {_name(process)}")


def _is_of_postgres(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.name().startswith("postgres")
    return False


def _open_files(process: psutil.Process) -> Iterator[str]:
    with suppress(OSError):
        for file in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(OSError):  # it was closed meanwhile
                yield str(file.readlink())


def _files(home: Path) -> Iterator[Leftover]:
    for folder in RUN_FILES:
        for pattern in HALF_WRITTEN:
            for path in (home / folder).rglob(pattern):
                yield Leftover("file", path.relative_to(home).as_posix())


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    return str(process.pid)
