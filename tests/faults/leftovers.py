"""What a studio at rest should no longer have: orphans, zombies, descriptors of runs that are over, half-written files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tests.faults.history import Leftover
from tests.faults.parts import Studio
from tests.support.processes import processes_of

RUN_FILES = ("runs", "datasets", "uploads", "models")
HALF_WRITTEN = (".tmp-*", "*.tmp", "*.part", "*.partial", "*.draft")


def at_rest(studio: Studio) -> list[Leftover]:
    """Called while every part runs and no run is going on: a trainer is nobody's then, and a run's file nobody's to read."""
    return [*_trainers(studio), *_zombies(studio), *_descriptors(studio), *_files(studio.home)]


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
    """A file of a run or an upload that a process of the studio still holds open."""
    folders = [str(studio.home / name) for name in RUN_FILES]
    for process in processes_of(studio.home):
        with suppress(OSError, psutil.Error):
            for file in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(OSError):
                    path = str(file.readlink())
                    if any(path.startswith(folder) for folder in folders):
                        yield Leftover("descriptor", f"{path} in {_name(process)}")


def _files(home: Path) -> Iterator[Leftover]:
    for folder in RUN_FILES:
        for pattern in HALF_WRITTEN:
            for path in (home / folder).rglob(pattern):
                yield Leftover("file", path.relative_to(home).as_posix())


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    return str(process.pid)
