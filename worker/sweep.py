"""Files that no row names any more: of replaced checkpoints, of discarded runs, of trainers that were killed."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import UUID

from sqlalchemy import func, select

from backend.core import runs
from backend.core.assignment import ARTIFACTS, CHECKPOINTS
from backend.core.backup import begin_deleting
from backend.core.disk import remove
from backend.core.models import Artifact, Attempt, CheckpointRow, Run, Worker
from worker.host import Host

RETRY_SECONDS = 3600.0
BACKUP_SECONDS = 2.0
"""Between two looks whether a backup is over."""


class Sweep:
    """Deletes replaced checkpoints, and runs that were discarded long enough ago. Their rows tell so before a file goes, and
    are marked when the files are gone, each in a transaction of its own. What cannot be deleted is tried again after an hour.

    Whoever shares the storage does it: the host that made them may be gone for good.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._left_folders: set[str] = set()
        self._left_runs: set[UUID] = set()
        self._since = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._since > RETRY_SECONDS:
            self._left_folders.clear()
            self._left_runs.clear()
            self._since = time.monotonic()
        while self._delete_checkpoint() or self._delete_run():
            pass

    def _delete_checkpoint(self) -> bool:
        """Whether there was one."""
        of_attempt = (Attempt.run_id == CheckpointRow.run_id) & (Attempt.number == CheckpointRow.attempt)
        replaced = (
            select(CheckpointRow)
            .join(Attempt, of_attempt)
            .join(Run, Run.id == CheckpointRow.run_id)
            .outerjoin(Worker, Worker.name == Attempt.worker)
            .where(CheckpointRow.replaced_at.is_not(None), CheckpointRow.deleted_at.is_(None))
            .where(func.coalesce(Worker.place, Run.place) == self._host.place)  # a restore removes all workers
            .where(CheckpointRow.folder.not_in(self._left_folders))
            .limit(1)
            .with_for_update(of=CheckpointRow, skip_locked=True)
        )
        with self._host.transaction() as session:
            row = session.scalar(replaced) if begin_deleting(session) else None
            if row is None:
                return False
            if remove(self._host.settings.root / row.folder):
                row.deleted_at = func.clock_timestamp()
            else:
                self._left_folders.add(row.folder)
        return True

    def _delete_run(self) -> bool:
        """Whether there was one."""
        with self._host.transaction() as session:
            if not begin_deleting(session):
                return False
            hours = self._host.settings.discard_hours
            for run in runs.to_purge(session, self._host.place, hours, but_for=self._left_runs, limit=1):
                if remove(self._host.settings.root / "runs" / str(run.id)):
                    run.facts = run.facts | {"purged": True}
                else:
                    self._left_runs.add(run.id)
                return True
        return False


def tidy(attempt: Path) -> None:
    """Delete what killed trainers left half written, of this attempt and of those before it, whose host may be gone.

    Nothing that was published has such a name.
    """
    for folder in attempt.parent.glob("attempt-*"):
        if number_of(folder) <= number_of(attempt):  # a later one may be at work
            for draft in folder.glob("*/.tmp-*"):
                remove(draft)


def drop_unnamed(host: Host, run_folder: Path) -> None:
    """Delete checkpoints and artifacts that no row names and nobody can take up any more: those of attempts before the one that
    owns the history. A trainer publishes on disk before its supervisor tells of it; where both die in between, the next
    attempt goes on from the newest of these alone.

    Waits while somebody backs the studio up: nobody comes back to what a run's last attempt left.
    """
    while not _have_dropped(host, run_folder):
        time.sleep(BACKUP_SECONDS)


def _have_dropped(host: Host, run_folder: Path) -> bool:
    """Not while files may not be deleted."""
    made = [path for kind in (CHECKPOINTS, ARTIFACTS) for path in run_folder.glob(f"attempt-*/{kind}/[!.]*")]
    if not made:
        return True
    with host.transaction() as session:
        if not begin_deleting(session):
            return False
        run_id = UUID(run_folder.name)
        owner = session.scalar(select(Run.begun).where(Run.id == run_id)) or 0
        named = {
            host.settings.root / folder
            for row in (CheckpointRow, Artifact)
            for folder in session.scalars(select(row.folder).where(row.run_id == run_id))
        }
        for path in made:
            if number_of(path.parent.parent) < owner and path not in named:
                remove(path)
    return True


def number_of(attempt: Path) -> int:
    return int(attempt.name.removeprefix("attempt-"))
