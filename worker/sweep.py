"""Files that no row names any more: of replaced checkpoints, of discarded runs, of trainers that were killed."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from backend.core import runs
from backend.core.assignment import ARTIFACTS, CHECKPOINTS
from backend.core.backup import begin_deleting
from backend.core.disk import remove
from backend.core.models import ACTIVE, Artifact, Attempt, CheckpointRow, Run, Worker
from worker.host import Host, is_outage

log = logging.getLogger(__name__)

RETRY_SECONDS = 3600.0
HALF_WRITTEN = ".tmp-"
"""Nothing that was published has a name that begins so."""
ATTEMPT = re.compile(r"attempt-(\d+)")


class Sweep:
    """Deletes what trainers left behind, replaced checkpoints, and runs that were discarded long enough ago. Of the last two,
    rows tell so before a file goes, and are marked when the files are gone, each in a transaction of its own. What cannot be
    deleted is tried again after an hour.

    Whoever shares the storage does it: the host that made them may be gone for good.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._left_folders: set[str] = set()
        self._left_runs: set[UUID] = set()
        self._untidy: deque[Path] = deque()
        self._since = -RETRY_SECONDS

    def has_ended(self, run_folder: Path) -> None:
        """A trainer of this run is dead: the next call tidies up after it."""
        self._untidy.append(run_folder)

    def __call__(self) -> None:
        if time.monotonic() - self._since > RETRY_SECONDS:
            self._left_folders.clear()
            self._left_runs.clear()
            self._untidy += neglected(self._host)
            self._since = time.monotonic()
        self._tidy()
        while self._delete_checkpoint() or self._delete_run():
            pass

    def _tidy(self) -> None:
        """Once for each that waits now. It waits on through an outage, and as long as somebody backs the studio up."""
        for _ in range(len(self._untidy)):
            folder = self._untidy.popleft()
            try:
                if not tidy(self._host, folder):
                    self._untidy.append(folder)
            except Exception as error:
                if is_outage(error):
                    self._untidy.append(folder)
                    raise
                log.exception("tidying %s went wrong", folder)

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


def neglected(host: Host) -> list[Path]:
    """Runs in whose folders something lies that no row names. Who was to tidy them up was killed first, or is gone for good;
    or a trainer is at work there."""
    with host.transaction() as session:
        named = _named(session, host, select(CheckpointRow.folder), select(Artifact.folder))
    found = []
    for folder in host.settings.folder("runs").iterdir():
        try:
            if any(path not in named for path in _made(folder)):
                found.append(folder)
        except OSError as error:  # a damaged folder keeps no other from being tidied up
            log.warning("%s cannot be looked at: %s", folder, error)
    return found


def tidy(host: Host, run_folder: Path) -> bool:
    """Delete what trainers that are over left half written, artifacts of theirs that no row names, and such checkpoints as
    nobody can take up any more: those of attempts before the one that owns the history. A trainer publishes on disk before
    its supervisor tells of it; where both die in between, the next attempt goes on from the newest of these alone.

    False, having deleted nothing, while somebody backs the studio up.
    """
    made = _made(run_folder)
    if not made:
        return True
    with host.transaction() as session:
        if not begin_deleting(session):
            return False
        run = session.get(Run, UUID(run_folder.name))
        if run is None:  # rows that are restored later may name what lies here
            return True
        of_run = (select(row.folder).where(row.run_id == run.id) for row in (CheckpointRow, Artifact))
        named = _named(session, host, *of_run)
        over = run.attempt - 1 if run.state in ACTIVE else run.attempt
        for path, attempt in made.items():
            if path.name.startswith(HALF_WRITTEN):
                if attempt <= over:
                    remove(_taken_away(path))
            elif path not in named and attempt <= (over if path.parent.name == ARTIFACTS else run.begun - 1):
                remove(path)
    return True


def _taken_away(draft: Path) -> Path:
    """Under a name that its writer does not know. One that was given up may live on where Postgres is out of its reach: it is to
    fail, not to publish what is left while files go one by one."""
    return draft.rename(draft.with_name(f"{HALF_WRITTEN}gone-{uuid4()}"))


def _named(session: Session, host: Host, *folders: Select[str]) -> set[Path]:
    return {host.settings.root / folder for query in folders for folder in session.scalars(query)}


def _made(run_folder: Path) -> dict[Path, int]:
    """A run's checkpoints and artifacts on this disk, half written ones too, and the number of the attempt that made each."""
    paths = (path for kind in (CHECKPOINTS, ARTIFACTS) for path in run_folder.glob(f"attempt-*/{kind}/*"))
    attempts = ((path, ATTEMPT.fullmatch(path.parents[1].name)) for path in paths)
    return {path: int(attempt[1]) for path, attempt in attempts if attempt}
