"""What fills the disk under the home, and what of it nobody needs any more.

Measuring walks the whole home: seconds for many runs, so it is done in a thread and never while a page waits. Deleting
touches only what no row names and no act can bring back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from functools import partial
from operator import add
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from backend.core import runs, uploads
from backend.core.backup import begin_deleting
from backend.core.errors import Conflict
from backend.core.models import Artifact, Run
from backend.core.settings import Settings

log = logging.getLogger(__name__)

KINDS = ("models", "artifacts", "checkpoints", "datasets", "uploads", "other")
"""Base models; adapters and merged models; checkpoints; data sets; uploads; journals, caches, logs and the database."""
LARGEST = 8
UNTOUCHED_HOURS = 24
"""An upload that nobody has gone on with for so long is given up."""


@dataclass(frozen=True)
class Usage:
    """Bytes on the disk, files that share their content counted once."""

    at: datetime
    total_bytes: int
    free_bytes: int
    kinds: dict[str, int]
    runs: dict[UUID, int] = field(default_factory=dict)
    """The largest runs, largest first."""

    @property
    def used_bytes(self) -> int:
        return sum(self.kinds.values())


def measure(home: Path) -> Usage:
    """Walk the home. What comes and goes meanwhile is skipped."""
    kinds, by_run = Counter(dict.fromkeys(KINDS, 0)), Counter[UUID]()
    seen: set[tuple[int, int]] = set()
    for path, status in _files(home):
        if status.st_nlink > 1:
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        parts = path.relative_to(home).parts
        kinds[_kind(parts)] += status.st_blocks * 512
        if parts[0] == "runs" and (run_id := _as_run(parts[1] if len(parts) > 1 else "")):
            by_run[run_id] += status.st_blocks * 512
    disk = shutil.disk_usage(home)
    largest = {run_id: size for run_id, size in by_run.most_common(LARGEST) if size}
    return Usage(datetime.now(UTC), disk.total, disk.free, dict(kinds), largest)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield Path(entry.path), entry.stat(follow_symlinks=False)
        except OSError:
            continue


def _kind(parts: tuple[str, ...]) -> str:
    match parts:
        case ("runs", _, _, "checkpoints" | "artifacts" as kind, *_):
            return kind
        case ("models" | "datasets" | "uploads" as kind, _, *_):
            return kind
        case _:
            return "other"


def _as_run(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


# ---- what can go ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waste:
    """What a clean-up would free."""

    uploads: int = 0
    upload_bytes: int = 0
    artifacts: int = 0
    artifact_bytes: int = 0
    runs: int = 0
    run_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.upload_bytes + self.artifact_bytes + self.run_bytes

    def __add__(self, other: Waste) -> Waste:
        return Waste(*map(add, astuple(self), astuple(other)))


def waste(session: Session, settings: Settings) -> Waste:
    """Uploads that were given up, artifacts that a later end of their run replaced, discarded runs whose day is over.

    Their sizes are read from the disk, for which no transaction should stay open.
    """
    found = runs.to_purge(session, settings.place(), settings.discard_hours)
    folders = [_folder_of(run, settings) for run in found]
    return _waste(_old_uploads(session, settings), _old_artifacts(session, settings), folders)


def clean_up(begin: Callable[[], AbstractContextManager[Session]], settings: Settings) -> Iterator[Waste]:
    """Delete that, each folder in a transaction of its own: what is gone stays told, whatever becomes of the next. Yields what
    each freed. Raises `Conflict` while somebody backs the studio up."""
    for delete in (_delete_uploads, _delete_artifact, _delete_run):
        tried: set[Any] = set()
        yield from iter(partial(_in_one, begin, partial(delete, settings=settings, tried=tried)), None)


def _in_one(
    begin: Callable[[], AbstractContextManager[Session]], delete: Callable[[Session], Waste | None]
) -> Waste | None:
    with begin() as session:
        if not begin_deleting(session):
            raise Conflict("The studio is being backed up.", hint="Try again when that is done.", code="backup.busy")
        return delete(session)


def _delete_uploads(session: Session, settings: Settings, tried: set[Path]) -> Waste | None:
    """What they freed; None where there is none."""
    files = [file for file in _old_uploads(session, settings) if file not in tried]
    tried.update(files)
    freed = _waste(files, [], [])
    for file in files:
        file.unlink(missing_ok=True)
    return freed if files else None


def _delete_artifact(session: Session, settings: Settings, tried: set[Path]) -> Waste | None:
    """What one freed; None where there is none left."""
    folder = next((folder for folder in _old_artifacts(session, settings) if folder not in tried), None)
    if folder is None:
        return None
    tried.add(folder)
    freed = _waste([], [folder], [])
    return freed if remove(folder) else Waste()


def _delete_run(session: Session, settings: Settings, tried: set[UUID]) -> Waste | None:
    """The same, of a run, which is marked when its files are gone."""
    for run in runs.to_purge(session, settings.place(), settings.discard_hours, but_for=tried, limit=1):
        tried.add(run.id)
        freed = _waste([], [], [_folder_of(run, settings)])
        if not remove(_folder_of(run, settings)):
            return Waste()
        run.facts = run.facts | {"purged": True}
        return freed
    return None


def remove(folder: Path) -> bool:
    """Delete a folder that no row names any more. Whether it is gone."""
    log.info("deleting %s", folder)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.lstat()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return True
    log.warning("%s cannot be deleted", folder)
    return False


def _waste(files: list[Path], artifacts: list[Path], old_runs: list[Path]) -> Waste:
    return Waste(
        sum(path.suffix not in uploads.WORDS for path in files),
        _bytes(files),
        len(artifacts),
        _bytes(artifacts),
        len(old_runs),
        _bytes(old_runs),
    )


def _bytes(paths: Iterable[Path]) -> int:
    """Of files, and of folders with all that they hold. What goes away meanwhile is nothing."""
    return sum(status.st_blocks * 512 for path in paths for status in _statuses(path))


def _statuses(path: Path) -> Iterator[os.stat_result]:
    if path.is_dir():
        yield from (status for _, status in _files(path))
        return
    with contextlib.suppress(FileNotFoundError):
        yield path.stat()


def _old_uploads(session: Session, settings: Settings) -> list[Path]:
    limit = time.time() - UNTOUCHED_HOURS * 3600
    return uploads.untouched(settings.folder("uploads"), limit, uploads.being_read(session))


def _old_artifacts(session: Session, settings: Settings) -> list[Path]:
    """Folders of withdrawn artifacts in which no standing one lies."""
    standing = aliased(Artifact)
    in_use = select(standing.id).where(standing.folder == Artifact.folder, standing.withdrawn_at.is_(None))
    query = select(Artifact.folder).where(Artifact.withdrawn_at.is_not(None), ~in_use.exists()).distinct()
    folders = (settings.root / folder for folder in session.scalars(query))
    return [folder for folder in folders if folder.is_dir()]


def _folder_of(run: Run, settings: Settings) -> Path:
    return settings.root / "runs" / str(run.id)
