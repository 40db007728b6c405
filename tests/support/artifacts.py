"""What a run gives away, made by hand: no trainer exports it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy.orm import Session

from backend.core.archives import describe, files_sha256
from backend.core.models import Artifact, Run
from backend.core.settings import Settings


def publish(session: Session, settings: Settings, run: Run, kind: str, write: Callable[[Path], object]) -> Artifact:
    """An artifact on disk and in the database, as a supervisor publishes it; `write` puts its files into the folder."""
    folder = settings.run_folder(run.id, 1) / "artifacts" / kind
    folder.mkdir(parents=True)
    write(folder)
    files = describe(folder)
    made = Artifact(
        run_id=run.id,
        attempt=1,
        step=2,
        kind=kind,
        folder=folder.relative_to(settings.root).as_posix(),
        bytes=sum(file.bytes for file in files),
        sha256=files_sha256(files),
        files=[vars(file) for file in files],
    )
    session.add(made)
    session.commit()
    return made
