"""Which checkpoint a new attempt goes on from: the newest valid one of the history's owner, and no other's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.core.assignment import CHECKPOINTS, MANIFEST, Checkpoint
from backend.core.checkpoints import manifest_sha256, verify
from backend.core.errors import Unavailable
from backend.core.models import CheckpointRow, Run

FOLDER = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Pick:
    """`adopted` is its row, where the checkpoint was on disk but not yet published. `passed_over` says what was damaged."""

    checkpoint: Checkpoint | None
    adopted: CheckpointRow | None = None
    passed_over: tuple[str, ...] = ()


def pick(home: Path, run: Run, published: Sequence[CheckpointRow], recorded: Collection[int]) -> Pick:
    """Verify from the newest on, and take the first that is whole. Reads every byte: run it off the main thread.

    `recorded` are the steps of the owner's checkpoints that have a row: nothing picks a replaced one, whose files may be
    about to go.
    """
    if published and not (home / "runs" / str(run.id)).is_dir():
        raise Unavailable(
            "The folder with the run's checkpoints is not there.",
            hint="Is its disk mounted on this host? Then resume. Nothing was started over.",
            code="checkpoint.absent",
        )
    passed_over: list[str] = []
    for checkpoint, row, is_new in _candidates(home, run, published, recorded):
        problems = verify(checkpoint.folder)
        if not problems and not is_new and manifest_sha256(checkpoint.folder) != row.manifest_sha256:
            passed_over.append(f"The checkpoint of step {checkpoint.step} is not the one that was published.")
        elif not problems:
            return Pick(checkpoint, row if is_new else None, tuple(passed_over))
        elif not is_new or problems[0].code != "checkpoint.unfinished":
            passed_over.append(f"The checkpoint of step {checkpoint.step} is damaged: {problems[0]}")
    return Pick(None, None, tuple(passed_over))


def _candidates(
    home: Path, run: Run, published: Sequence[CheckpointRow], recorded: Collection[int]
) -> Iterator[tuple[Checkpoint, CheckpointRow, bool]]:
    """Newer ones of the attempt that owns the history, on disk; then the published ones. The newest first."""
    newest = published[0].step if published else 0
    begun = Path("runs", str(run.id), f"attempt-{run.begun}")
    for folder, step in reversed(_on_disk(home / begun / CHECKPOINTS)) if run.begun else ():
        if step > newest and step not in recorded and (folder / MANIFEST).is_file():
            relative = begun / CHECKPOINTS / folder.name
            yield Checkpoint(folder=folder, step=step, attempt=run.begun), _row(run, folder, relative, step), True
    for row in published:
        yield Checkpoint(folder=home / row.folder, step=row.step, attempt=row.attempt), row, False


def _on_disk(folder: Path) -> list[tuple[Path, int]]:
    found = [(path, match) for path in folder.glob("checkpoint-*") if (match := FOLDER.fullmatch(path.name))]
    return sorted(((path, int(match[1])) for path, match in found), key=lambda pair: pair[1])


def _row(run: Run, folder: Path, relative: Path, step: int) -> CheckpointRow:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return CheckpointRow(
        run_id=run.id,
        attempt=run.begun,
        step=step,
        folder=relative.as_posix(),
        manifest_sha256=manifest_sha256(folder),
        bytes=size,
    )
