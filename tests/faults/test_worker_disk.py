"""A disk that fills up under a run, and one that Postgres keeps its points on: nothing is torn, and a person is told."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from backend.core import runs
from backend.core.checkpoints import verify
from backend.core.models import State, Worker
from tests.faults.checker import Violation
from tests.faults.drives import broken_promises
from tests.faults.history import Struck
from tests.support.disks import MIB, PAGE, mounted
from tests.support.hosts import Lab
from tests.support.labs import MakeLab

PATIENCE_SECONDS = 300.0
RECIPE: dict[str, Any] = {
    "method": {"kind": "full"},  # a checkpoint of some megabytes
    "training": {"max_steps": 100_000, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1},
    "evaluation": {"prompts": [], "eval_steps": 90_000, "sample_steps": 90_000},
    "saving": {"save_steps": 20},
}


@contextmanager
def small_disk(folder: Path, mib: int, owner: os.stat_result | None = None) -> Iterator[Path]:
    """A file system of its own at `folder`, with room for so much."""
    with mounted(folder, mib, owner) as refusal:
        if refusal:
            pytest.skip(f"this machine lets us mount no small disk: {refusal}")
        yield folder


def fill(disk: Path, leaving: int) -> None:
    """Somebody else writes until only so many bytes are free."""
    with open(disk / "somebody-elses", "ab") as file:
        for piece in (MIB, PAGE):
            while shutil.disk_usage(disk).free >= leaving + piece:
                with suppress(OSError):  # others write meanwhile
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), piece)


def checkpoints(lab: Lab, run_id: UUID) -> list[int]:
    """The steps of the published ones, each of which is whole."""
    with lab.sessions.begin() as session:
        rows = runs.published(session, run_id)
    assert [problem for row in rows for problem in verify(lab.home / row.folder)] == []
    return [row.step for row in rows]


def says_its_disk_is_full(lab: Lab) -> bool:
    with lab.sessions.begin() as session:
        return bool(session.get_one(Worker, "a").facts["disk_full"])


def what_is_broken(lab: Lab, run_id: UUID, filled_at: float) -> list[Violation]:
    """Bring the run to rest, where it goes on, and look at all that it left behind."""
    if lab.run(run_id).state != State.FAILED:
        with lab.sessions.begin() as session:
            runs.stop(session, run_id, keep=False)
        lab.wait_for(run_id, State.STOPPED, seconds=PATIENCE_SECONDS)
    filled = Struck(filled_at, 1, 0, "disk.fill", "training", "runs", time.time())
    return broken_promises(lab, run_id, struck=[filled])


def test_a_run_on_a_disk_that_fills_up_is_warned_ends_in_words_and_goes_on_once_there_is_room(
    make_lab: MakeLab,
) -> None:
    with make_lab() as lab, small_disk(lab.home / "runs", 96) as disk, lab.host():
        run_id = lab.launch(**RECIPE)
        lab.wait(lambda: checkpoints(lab, run_id), "a checkpoint", PATIENCE_SECONDS)
        fill(disk, 8 * MIB)
        lab.wait(lambda: any("nearly full" in text for text in lab.logged(run_id)), "the warning", PATIENCE_SECONDS)

        filled_at = time.time()
        fill(disk, MIB // 4)
        failed = lab.wait_for(run_id, State.FAILED, seconds=PATIENCE_SECONDS)
        assert failed.cause is not None
        assert (failed.cause["code"], failed.cause["hint"]) == ("disk_full", "Free some space, then resume the run.")
        assert (failed.attempt, failed.crashes) == (1, 0), "no blind retry"
        kept = checkpoints(lab, run_id)
        assert kept
        lab.wait(lambda: not list(disk.glob("*/*/*/.tmp-*")), "what was half written to be gone", PATIENCE_SECONDS)

        fill(disk, MIB // 4)
        with lab.sessions.begin() as session:
            runs.resume(session, run_id)
        lab.wait(lambda: says_its_disk_is_full(lab), "the host to say so", PATIENCE_SECONDS)
        assert lab.run(run_id).attempt == 1, "nothing begins where nothing can be written"

        (disk / "somebody-elses").unlink()
        lab.wait(lambda: lab.run(run_id).begun == 2, "the history to be taken over", PATIENCE_SECONDS)
        lab.wait_for_step(run_id, kept[0] + 1, PATIENCE_SECONDS)
        assert sorted(lab.losses(run_id)) == list(range(1, max(lab.losses(run_id)) + 1)), "each step is there"
        assert what_is_broken(lab, run_id, filled_at) == []


def test_a_trainer_that_can_write_nothing_at_all_still_says_why_it_ended(make_lab: MakeLab) -> None:
    with make_lab() as lab, small_disk(lab.home / "runs", 48) as disk, lab.host():
        run_id = lab.launch(**(RECIPE | {"saving": {"save_steps": 90_000}}))
        lab.wait_for_step(run_id, 3, PATIENCE_SECONDS)
        filled_at = time.time()
        fill(disk, 0)
        failed = lab.wait_for(run_id, State.FAILED, seconds=PATIENCE_SECONDS)
        assert failed.cause is not None
        assert failed.cause["code"] == "disk_full"
        assert (failed.attempt, failed.crashes) == (1, 0)
        assert what_is_broken(lab, run_id, filled_at) == []


@pytest.mark.usefixtures("postgres_server")
def test_a_run_trains_on_while_the_disk_of_postgres_is_full_and_its_history_is_complete_afterwards(
    make_lab: MakeLab, service_home: Path
) -> None:
    owner = next(service_home.rglob("PG_VERSION")).stat()
    with make_lab() as lab, small_disk(service_home / "small", 8, owner) as disk:
        room = disk / "points"
        room.mkdir(mode=0o700)
        os.chown(room, owner.st_uid, owner.st_gid)
        with psycopg.connect(lab.database_url, autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{room}'")
            connection.execute("ALTER TABLE points SET TABLESPACE small")
            try:
                _outlast_a_full_disk(lab, disk)
            finally:
                connection.execute("ALTER TABLE points SET TABLESPACE pg_default")
                connection.execute("DROP TABLESPACE small")


def _outlast_a_full_disk(lab: Lab, disk: Path) -> None:
    with lab.host():
        run_id = lab.launch(**RECIPE)
        lab.wait_for_step(run_id, 3, PATIENCE_SECONDS)
        filled_at = time.time()
        fill(disk, 0)
        lab.wait(lambda: "No space left on device" in lab.logs(), "Postgres to refuse points", PATIENCE_SECONDS)
        stored = lab.run(run_id).step
        written = lab.home / "runs" / str(run_id) / "attempt-1" / "events.jsonl"
        size = written.stat().st_size
        lab.wait(lambda: written.stat().st_size > size + 5_000, "training to go on", PATIENCE_SECONDS)
        (disk / "somebody-elses").unlink()
        run = lab.wait_for_step(run_id, stored + 20, PATIENCE_SECONDS)
        assert (run.attempt, run.state) == (1, State.TRAINING)
        losses = lab.losses(run_id)
        assert sorted(losses) == list(range(1, max(losses) + 1))
        assert what_is_broken(lab, run_id, filled_at) == []
