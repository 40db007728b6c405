"""What fills the disk, and what a clean-up takes away and leaves."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from backend.core import db, disk, runs
from backend.core.models import Artifact, Run
from backend.core.recipe import read_recipe
from backend.core.settings import Settings

BLOCK = 4096


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    engine = db.engine(database_url, pool_size=1)
    with Session(engine) as session:
        yield session
    engine.dispose()


def clean_up(session: Session, here: Settings) -> disk.Waste:
    session.commit()
    return sum(disk.clean_up(sessionmaker(session.get_bind()).begin, here), disk.Waste())


@pytest.fixture
def here(studio_home: Path) -> Settings:
    return Settings(home=studio_home)


def a_file(path: Path, blocks: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(blocks * BLOCK))
    return path


def a_run(session: Session, name: str) -> Run:
    recipe = read_recipe({"model": "tiny", "data": {"sets": ["letters"]}, "method": "lora", "name": name}).recipe
    return runs.create(session, recipe=recipe, model={"path": "tiny"}, data=[])


def an_artifact(run: Run, folder: str, *, withdrawn: bool) -> Artifact:
    return Artifact(
        run_id=run.id,
        attempt=1,
        step=1,
        kind="merged",
        folder=folder,
        bytes=1,
        sha256="0",
        files=[],
        withdrawn_at=datetime.now(UTC) if withdrawn else None,
    )


def test_the_disk_is_told_by_kind_and_by_run(here: Settings) -> None:
    small, large = uuid4(), uuid4()
    a_file(here.root / "models" / "base" / "model.safetensors", 5)
    a_file(here.root / "runs" / str(small) / "attempt-1" / "checkpoints" / "1" / "w", 2)
    shared = a_file(here.root / "runs" / str(large) / "attempt-1" / "artifacts" / "merged" / "w", 7)
    (shared.parent / "again").hardlink_to(shared)
    a_file(here.root / "runs" / str(large) / "attempt-1" / "events.jsonl")
    a_file(here.root / "stray")
    found = disk.measure(here.root)
    assert found.kinds == {
        "models": 5 * BLOCK,
        "checkpoints": 2 * BLOCK,
        "artifacts": 7 * BLOCK,
        "datasets": 0,
        "uploads": 0,
        "other": 2 * BLOCK,
    }
    assert list(found.runs.items()) == [(large, 8 * BLOCK), (small, 2 * BLOCK)]
    assert 0 < found.free_bytes <= found.total_bytes


def test_a_clean_up_takes_what_nobody_needs_and_leaves_the_rest(session: Session, here: Settings) -> None:
    old = time.time() - 2 * 24 * 3600
    given_up, going_on = a_file(here.root / "uploads" / "a.part"), a_file(here.root / "uploads" / "b.part")
    words = a_file(here.root / "uploads" / "b.json")
    for path in (given_up, words):
        os.utime(path, (old, old))  # an upload's words are as old as its beginning
    kept, over, fresh = a_run(session, "kept"), a_run(session, "over"), a_run(session, "fresh")
    files = {run.name: a_file(here.root / "runs" / str(run.id) / "attempt-1" / "w") for run in (kept, over, fresh)}
    over.discarded_at = datetime.now(UTC) - timedelta(hours=here.discard_hours + 1)
    fresh.discarded_at = datetime.now(UTC)
    for name, withdrawn in (("attempt-1/artifacts/old", True), ("attempt-2/artifacts/new", False)):
        session.add(an_artifact(kept, f"runs/{kept.id}/{name}", withdrawn=withdrawn))
        a_file(here.root / "runs" / str(kept.id) / name / "model.safetensors", 3)
    session.flush()
    expected = disk.waste(session, here)
    assert (expected.uploads, expected.artifacts, expected.runs) == (1, 1, 1)
    assert expected.total_bytes == (1 + 3 + 1) * BLOCK
    assert clean_up(session, here) == expected
    assert [path.exists() for path in (given_up, going_on, words)] == [False, True, True]
    assert [files[name].exists() for name in ("kept", "over", "fresh")] == [True, False, True]
    left = here.root / "runs" / str(kept.id)
    assert [path.name for path in left.rglob("*.safetensors")] == ["model.safetensors"]
    assert (left / "attempt-2/artifacts/new/model.safetensors").exists()
    assert over.facts["purged"]
    assert disk.waste(session, here) == disk.Waste()


def test_a_run_whose_files_cannot_be_deleted_stays_waste_and_counts_as_nothing_freed(
    session: Session, here: Settings
) -> None:
    stuck, gone = a_run(session, "stuck"), a_run(session, "gone")
    for run in (stuck, gone):
        run.discarded_at = datetime.now(UTC) - timedelta(hours=here.discard_hours + 1)
        a_file(here.root / "runs" / str(run.id) / "attempt-1" / "w")
    session.flush()
    shutil.rmtree(here.root / "runs" / str(stuck.id))
    (here.root / "runs" / str(stuck.id)).symlink_to(
        here.root / "elsewhere", target_is_directory=True
    )  # `rmtree` refuses
    a_file(here.root / "elsewhere" / "w")
    assert clean_up(session, here).runs == 1
    assert [bool(run.facts.get("purged")) for run in (stuck, gone)] == [False, True]
    assert disk.waste(session, here).runs == 1


def test_each_folder_is_deleted_in_a_transaction_of_its_own_that_may_rest_meanwhile(
    session: Session, here: Settings
) -> None:
    both = [a_run(session, name) for name in ("first", "second")]
    for run in both:
        run.discarded_at = datetime.now(UTC) - timedelta(hours=here.discard_hours + 1)
        a_file(here.root / "runs" / str(run.id) / "attempt-1" / "w")
    session.commit()
    rests: list[str | None] = []

    @contextmanager
    def begin() -> Iterator[Session]:
        with sessionmaker(session.get_bind()).begin() as its:
            yield its
            rests.append(its.scalar(text("SHOW idle_in_transaction_session_timeout")))

    deleting = disk.clean_up(begin, here)
    assert next(deleting).runs == 1
    assert sorted(bool(run.facts.get("purged")) for run in both) == [False, True]
    session.rollback()
    assert [each.runs for each in deleting] == [1]
    assert all(run.facts["purged"] for run in both)
    assert set(rests) == {"10min"}


def test_files_of_a_withdrawn_artifact_stay_where_a_standing_one_has_the_same_folder(
    session: Session, here: Settings
) -> None:
    run = a_run(session, "twice")
    folder = f"runs/{run.id}/attempt-1/artifacts/merged"
    file = a_file(here.root / folder / "model.safetensors")
    session.add_all([an_artifact(run, folder, withdrawn=True), an_artifact(run, folder, withdrawn=False)])
    session.flush()
    clean_up(session, here)
    assert file.exists()
