"""What a studio at rest should no longer have: orphans, zombies, descriptors of runs that are over, half-written files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import redis

from backend.core.assignment import ARTIFACTS, ASSIGNMENT, CHECKPOINTS, CONTROL, JOURNAL
from backend.core.queue import POKE, celery_app
from tests.faults.history import Leftover
from tests.faults.parts import HOSTS, Studio
from tests.support.processes import processes_of
from worker.spares import PROCESS

T = TypeVar("T")
PUBLISHED = ("runs", "datasets", "models")
RUN_FILES = (*PUBLISHED, "uploads")
QUEUE = "studio"
MOST_DESCRIPTORS = 100
"""Of any process but Postgres's, which keep the files of their tables open, some hundred apiece, and a deleted one until they
look again. Valkey's grow with the connections of our own parts, which are counted there."""
SERVICES = ("postgres", "valkey")
MORE_SOCKETS = {"web": 14, "supervisor": 4, "celery": 4}
"""Of each of our own parts, beside those that it had before the first fault: 20, 8 and 6, where 28, 8 and 6 were seen after 75
faults. At rest a pool keeps up to ten connections, and whoever followed a run may still be connected."""
MORE_NAMELESS = 4
"""Pipes, and what the kernel waits with."""
OWN_FOLDERS, MOST_OWN = ("logs", "run", "dev"), 2
"""Where a part's log and its lock lie. It writes both of its outputs into the one."""
HALF_WRITTEN = (".*", "*.tmp", "*.part", "*.partial", "*.draft", "*.body")
OF_A_HOST = f"[{''.join(HOSTS)}]"
MAY_HOLD = {
    "runs/*/attempt-*": (ASSIGNMENT, CONTROL, JOURNAL, CHECKPOINTS, ARTIFACTS, PROCESS, "tokenizer"),
    OF_A_HOST: ("logs", "run", *RUN_FILES),
    f"{OF_A_HOST}/run": ("*.lock", "*.sock", "place"),
    "run": ("*.lock", "*.sock", ".s.PGSQL.*", "place", "setup-link"),
}
"""All that the folder of an attempt and those of the hosts may hold."""
FOLDERS = """
    SELECT folder FROM checkpoints WHERE replaced_at IS NULL UNION SELECT folder FROM artifacts
"""
"""What is published. Of artifacts those that were withdrawn, too: people have them tidied away when they want the room."""
TO_BE_TAKEN_UP = """
    SELECT 'runs/' || id || '/attempt-' || begun || '/checkpoints' FROM runs WHERE state IN ('paused', 'stopped', 'failed')
"""
"""Who resumes such a run goes on from the newest checkpoint of its last trainer, were it one that nobody lived to tell of."""
REPLACED = "SELECT folder FROM checkpoints WHERE replaced_at IS NOT NULL"
CACHE_OF_TORCH = "torchinductor_*"
"""The folder that torch makes when it is loaded, for whatever it may compile, and keeps for the next time."""
KEYS = "SELECT key FROM dataset_versions"
QUERIES = (FOLDERS, KEYS, TO_BE_TAKEN_UP, REPLACED)

Kinds = Mapping[str, Counter[str]]
"""What each part has open, by its kind."""


@dataclass(frozen=True)
class Named:
    """Folders of runs and files of data sets, by their places under the home, that rows name; where others may yet be adopted,
    and those that may not."""

    folders: Set[str]
    keys: Set[str]
    adoptable: Set[str]
    replaced: Set[str]


def at_rest(studio: Studio, seconds: float, before: Kinds) -> list[Leftover]:
    """What is still there so long after the last run ended, while every part runs: then a trainer is nobody's, a run's file
    nobody's to read, and what no row names nobody's at all. `before`: what parts had open before the first fault."""
    return _settled(lambda: _found(studio, before), seconds)


def unnamed_at_rest(studio: Studio, seconds: float) -> list[str]:
    """Checkpoints and artifacts that no row names so long after everything ended: replaced ones go a while after their rows."""
    return _settled(lambda: unnamed_folders(studio.home, named(studio)), seconds)


def _settled(look: Callable[[], list[T]], seconds: float) -> list[T]:
    """What is still found after so long; nothing as soon as nothing is."""
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _found(studio: Studio, before: Kinds) -> list[Leftover]:
    web = studio.parts["web"].started
    return [*of_processes(studio, before), *files(studio.home, named(studio)), *uploads(studio.home, web)]


def named(studio: Studio) -> Named:
    with studio.connect() as connection:
        return Named(*({str(place) for (place,) in connection.execute(query)} for query in QUERIES))


def of_processes(studio: Studio, before: Kinds) -> list[Leftover]:
    """Processes that nobody needs, and what the others have open and have no use for."""
    descriptors = (*_descriptors(studio), *_descriptors_of_parts(studio, before))
    return [*_trainers(studio), *_zombies(studio), *descriptors]


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
    processes = [Leftover("process", _name(process)) for process in processes_of(studio.home)]
    scratch = [path for path in studio.scratch.iterdir() if not path.match(CACHE_OF_TORCH)]
    return [*processes, *(Leftover("file", _place(path, studio.home)) for path in scratch)]


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


def kinds(studio: Studio) -> dict[str, Counter[str]]:
    """What each part of ours has open now."""
    ours = {name: part.process for name, part in studio.parts.items() if name not in SERVICES and part.process}
    return {part: Counter(map(_kind_of, _open_files(process.pid))) for part, process in ours.items()}


def _descriptors_of_parts(studio: Studio, before: Kinds) -> Iterator[Leftover]:
    """What a part of ours has no use for at rest: a file, one that is deleted too, which is neither its log nor its lock, and
    more of anything else than belongs to it."""
    for part, now in kinds(studio).items():
        for what, count in now.items():
            if count > _most(what, part, before[part]):
                yield Leftover(
                    "descriptor", f"{count} of {what} in {part}, {before[part][what]} before the first fault"
                )


def _kind_of(descriptor: str) -> str:
    """A file's name; of anything else what it is."""
    return descriptor if descriptor.startswith("/") else descriptor.partition(":")[0]


def _most(what: str, part: str, before: Counter[str]) -> int:
    if not what.startswith("/"):
        return before[what] + (MORE_SOCKETS[part.partition("-")[0]] if what == "socket" else MORE_NAMELESS)
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


def unnamed_folders(home: Path, named: Named) -> list[str]:
    """Checkpoints and artifacts that no row names and nobody will adopt, whole as they may be."""
    made = [path for kind in ("checkpoints", "artifacts") for path in home.glob(f"runs/*/attempt-*/{kind}/[!.]*")]
    adoptable = {_place(path, home) for path in made if _place(path.parent, home) in named.adoptable} - named.replaced
    return sorted({_place(path, home) for path in made} - named.folders - adoptable)


def files(home: Path, named: Named) -> Iterator[Leftover]:
    """Half of a file, what the folder of an attempt or a host has no use for, and a data set that no row names."""
    half = (path for folder in PUBLISHED for pattern in HALF_WRITTEN for path in (home / folder).rglob(pattern))
    unnamed = [
        path for path in (home / "datasets").rglob("*") if path.is_file() and _place(path, home) not in named.keys
    ]
    strange = (
        path
        for folder, names in MAY_HOLD.items()
        for path in home.glob(f"{folder}/*")
        if not any(path.match(name) for name in names)
    )
    found = {_place(path, home) for path in (*half, *unnamed, *strange)}
    yield from (Leftover("file", place) for place in sorted(found))


def uploads(home: Path, web_started: float) -> Iterator[Leftover]:
    """Of what was received. A killed process leaves some of it, which nobody but the sweep of a day later can know to be of no
    use: beside the words of an upload that became something its file, and what was drafted for it while it was read."""
    received = [path for path in (home / "uploads").rglob("*") if path.is_file()]
    became = {path.stem for path in received if path.suffix == ".became"}
    for path in received:
        is_of_the_killed = path.suffix == ".parquet" and path.stat().st_mtime < web_started
        if path.stem not in became and not is_of_the_killed:
            yield Leftover("file", _place(path, home))


def _place(path: Path, home: Path) -> str:
    return path.relative_to(home).as_posix()


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    return str(process.pid)
