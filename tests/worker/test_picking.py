"""Which checkpoint a new attempt goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.core.checkpoints import manifest_sha256, write_manifest
from backend.core.errors import Unavailable
from backend.core.ids import uuid7
from backend.core.models import CheckpointRow, Run
from worker.picking import pick


def checkpoint(home: Path, run: Run, step: int) -> CheckpointRow:
    folder = f"runs/{run.id}/attempt-1/checkpoints/checkpoint-{step}"
    path = home / folder
    path.mkdir(parents=True)
    (path / "weights").write_text(f"of step {step}")
    write_manifest(path, step)
    return CheckpointRow(
        run_id=run.id, attempt=1, step=step, folder=folder, manifest_sha256=manifest_sha256(path), bytes=1
    )


@pytest.fixture
def run() -> Run:
    return Run(id=uuid7(), begun=1)


def test_the_newest_valid_one_is_picked_and_the_damaged_one_is_told(tmp_path: Path, run: Run) -> None:
    older, newer = checkpoint(tmp_path, run, 10), checkpoint(tmp_path, run, 20)
    (tmp_path / newer.folder / "weights").write_text("torn")
    picked = pick(tmp_path, run, [newer, older], {10, 20})
    assert picked.checkpoint is not None
    assert picked.checkpoint.step == 10
    assert "step 20 is damaged" in picked.passed_over[0]


def test_a_newer_one_that_was_not_yet_published_is_adopted(tmp_path: Path, run: Run) -> None:
    published = checkpoint(tmp_path, run, 10)
    checkpoint(tmp_path, run, 20)
    picked = pick(tmp_path, run, [published], {10})
    assert picked.adopted is not None
    assert picked.adopted.step == 20


def test_one_that_was_replaced_is_not_picked_though_its_files_are_there(tmp_path: Path, run: Run) -> None:
    published = checkpoint(tmp_path, run, 10)
    checkpoint(tmp_path, run, 20)
    picked = pick(tmp_path, run, [published], {10, 20})
    assert picked.checkpoint is not None
    assert picked.checkpoint.step == 10


def test_a_disk_that_is_not_there_never_starts_a_run_over(tmp_path: Path, run: Run) -> None:
    published = checkpoint(tmp_path, run, 10)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="not there"):
        pick(tmp_path, run, [published], {10})
