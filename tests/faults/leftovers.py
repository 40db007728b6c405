"""What a studio at rest should no longer have: orphans, zombies, descriptors of runs that are over, half-written files."""

from __future__ import annotations

import time
from collections import Counter
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
"""Of any process but Postgres's, which keep the files of their tables open, some hundred apiece, and a deleted one until they
look again. Valkey's grow with the connections of our own parts, which are counted there."""
SERVICES = ("postgres", "valkey")
MOST_SOCKETS = {"web": 60, "supervisor": 20, "celery": 20}
"""Of each of our own parts, twice and more what was seen after 75 faults: 28, 8 and 6. At rest a pool keeps up to ten
connections, and whoever followed a run may still be connected."""
MOST_NAMELESS = 8
"""Pipes, and what the kernel waits with; three of each were seen."""
OWN_FOLDERS, MOST_OWN = ("logs", "run", "dev"), 2
"""Where a part's log and its lock lie. It writes both of its outputs into the one."""
HALF_WRITTEN = (".tmp-*", "*.tmp", "*.part", "*.partial", "*.draft", "*.body")


def at_rest(studio: Studio, seconds: float) -> list[Leftover]:
    """What is still there so long after the last run ended, while every part runs: then a trainer is nobody's, and a
    run's file nobody's to read."""
    deadline = time.monotonic() + seconds
    while (found := _found(studio)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _found(studio: Studio) -> list[Leftover]:
    descriptors = (*_descriptors(studio), *_descriptors_of_parts(studio))
    return [*_trainers(studio), *_zombies(studio), *descriptors, *_files(studio.home)]


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
        paths = list(_open_files(process.pid))
        kept = [path for path in paths if any(path.startswith(folder) for folder in folders)]
        yield from (Leftover("descriptor", f"{path} in {_name(process)}") for path in kept)
        if len(paths) > MOST_DESCRIPTORS and not _is_of_postgres(process):
            yield Leftover("descriptor", f"{len(paths)} in {_name(process)}")


def _descriptors_of_parts(studio: Studio) -> Iterator[Leftover]:
    """What a part of ours has no use for at rest: a file, one that is deleted too, which is neither its log nor its lock, and
    more of anything else than belongs to it."""
    ours = {name: part.process for name, part in studio.parts.items() if name not in SERVICES and part.process}
    for part, process in ours.items():
        for what, count in Counter(map(_kind_of, _open_files(process.pid))).items():
            if count > _most(what, part):
                yield Leftover("descriptor", f"{count} of {what} in {part}")


def _kind_of(descriptor: str) -> str:
    """A file's name; of anything else what it is."""
    return descriptor if descriptor.startswith("/") else descriptor.partition(":")[0]


def _most(what: str, part: str) -> int:
    if what == "socket":
        return MOST_SOCKETS[part.partition("-")[0]]
    if not what.startswith("/"):
        return MOST_NAMELESS
    is_own = Path(what).parent.name in OWN_FOLDERS and not what.endswith(" (deleted)")
    return MOST_OWN if is_own else 0


def _is_of_postgres(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.name().startswith("postgres")
    return False


def _open_files(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
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
