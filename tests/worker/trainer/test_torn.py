"""Whatever file of the newest checkpoint is torn, a new attempt goes on from the one before, and is told why."""

from __future__ import annotations

from pathlib import Path

from backend.core.checkpoints import manifest_sha256, verify
from backend.core.ids import uuid7
from backend.core.models import CheckpointRow, Run
from tests.worker.trainer.conftest import Attempts
from worker.picking import pick

NEEDED = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "studio.json", "events.jsonl"}
"""Besides the weights: without any of these, a resume would go on in silence, and wrongly."""


def row(home: Path, run: Run, folder: Path) -> CheckpointRow:
    step = int(folder.name.rpartition("-")[2])
    digest = manifest_sha256(folder)
    where = folder.relative_to(home).as_posix()
    return CheckpointRow(run_id=run.id, attempt=1, step=step, folder=where, manifest_sha256=digest, bytes=1)


def test_each_file_of_a_checkpoint_that_is_cut_short_is_noticed(attempts: Attempts, tmp_path: Path) -> None:
    attempt = attempts()
    assert attempt.run() == 0
    run, home = Run(id=uuid7(), begun=1), tmp_path / "home"
    moved = home / "runs" / str(run.id) / "attempt-1"
    moved.parent.mkdir(parents=True)
    attempt.folder.rename(moved)
    older, newer = (moved / "checkpoints" / f"checkpoint-{step}" for step in (8, 10))
    published = [row(home, run, newer), row(home, run, older)]
    files = sorted(path for path in newer.rglob("*") if path.is_file())
    assert {file.name for file in files} >= NEEDED
    for file in files:
        whole = file.read_bytes()
        for size in {0, len(whole) // 2, len(whole) - 1}:
            file.write_bytes(whole[:size])
            picked = pick(home, run, published, {8, 10})
            assert picked.checkpoint is not None
            assert picked.checkpoint.step == 8, f"{file.name} cut to {size} bytes"
            assert "step 10" in picked.passed_over[0]
        file.write_bytes(whole)
    assert verify(newer) == []
    assert pick(home, run, published, {8, 10}).passed_over == ()
