"""What processes did is known from outside: when each came, stood still and went."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import psutil
import psycopg
import pytest

from tests.faults.history import Reader, Row, Watcher, published_folders
from tests.support.processes import wait_until

Connection = psycopg.Connection[Any]
RUN = UUID(int=7)
SLEEP = "import time; time.sleep(60)"


def test_a_process_is_watched_from_its_start_to_its_death(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    watcher.start()
    process = subprocess.Popen([sys.executable, "-c", SLEEP], cwd=tmp_path)
    try:
        wait_until(lambda: process.pid in {each.pid for each in watcher.samples}, seconds=60, what="the first look")
        psutil.Process(process.pid).suspend()
        wait_until(
            lambda: watcher.samples[-1].status == "stopped", seconds=60, what="the look at one that stands still"
        )
    finally:
        process.kill()
        process.wait()
        gone_at = time.time()
    wait_until(lambda: not watcher.is_following(process.pid), seconds=60, what="its end")
    looks = [each for each in watcher.stop() if each.pid == process.pid]
    assert [each.at for each in looks] == sorted(each.at for each in looks)
    assert looks[0].parent == psutil.Process().pid
    living = [each.at for each in looks if each.status != "zombie"]
    assert looks[0].started < living[-1] <= gone_at


def test_what_is_wrong_with_published_files_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    for name in ("same", "cut", "other"):
        (tmp_path / "artifact" / name).write_bytes(b"bytes")
    digest = "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"
    files = [{"name": name, "bytes": 5, "sha256": digest} for name in ("same", "cut", "other", "gone")]
    (tmp_path / "artifact" / "cut").write_bytes(b"byt")
    (tmp_path / "artifact" / "other").write_bytes(b"BYTES")
    row = {"folder": "artifact", "files": files, "withdrawn_at": None}
    found = published_folders(tmp_path, [], [row, row | {"folder": "withdrawn", "withdrawn_at": "yesterday"}])
    assert found == {"artifact": ["cut has 3 bytes instead of 5", "other has other bytes", "gone is missing"]}


# ---- reading what is published ---------------------------------------------------------------------------------------


def checkpoint(home: Path, step: int = 4) -> Row:
    """One that lies there whole, as its row tells it."""
    folder = home / f"runs/{RUN}/attempt-1/checkpoints/checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"bytes")
    listed = {"name": "weights", "bytes": 5, "sha256": hashlib.sha256(b"bytes").hexdigest()}
    manifest = json.dumps({"files": [listed]})
    (folder / "manifest.json").write_text(manifest)
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    return {"folder": folder.relative_to(home).as_posix(), "manifest_sha256": digest, "step": step}


def test_of_a_list_of_files_that_was_cut_nothing_else_is_said(tmp_path: Path) -> None:
    row = checkpoint(tmp_path)
    (tmp_path / row["folder"] / "manifest.json").write_text('{"files": [')
    found = published_folders(tmp_path, [row | {"replaced_at": None}], [])
    assert found == {row["folder"]: ["manifest.json is not the one that was published"]}


@pytest.fixture
def database(database_url: str) -> Iterator[Connection]:
    """One in which checkpoints need no run."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


def publish(database: Connection, row: Row) -> None:
    row = row | {"run": RUN}
    database.execute(
        "INSERT INTO checkpoints (run_id, attempt, step, folder, manifest_sha256, bytes) "
        "VALUES (%(run)s, 1, %(step)s, %(folder)s, %(manifest_sha256)s, 5)",
        row,
    )


def replace_all(database: Connection) -> None:
    database.execute("UPDATE checkpoints SET replaced_at = now()")


class Meanwhile:
    """A connection that does something behind the first answer."""

    def __init__(self, connection: Connection, work: Callable[[], object]) -> None:
        self.connection, self.work = connection, work

    def execute(self, query: str) -> list[Any]:
        answer = self.connection.execute(query).fetchall()
        work, self.work = self.work, lambda: None
        work()
        return answer


def test_a_checkpoint_that_was_torn_when_it_was_published_is_told_though_it_was_replaced_later(
    tmp_path: Path, database_url: str, database: Connection
) -> None:
    torn, whole = checkpoint(tmp_path, 4), checkpoint(tmp_path, 8)
    (tmp_path / torn["folder"] / "weights").write_bytes(b"byt")
    reader = Reader(tmp_path, database_url)
    for row in (torn, whole):
        publish(database, row)
        reader.look(database)
    replace_all(database)
    reader.look(database)
    assert reader.read == {torn["folder"]: ["weights has 3 bytes instead of 5"], whole["folder"]: []}


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_checkpoint_that_is_gone_is_told_unless_it_was_replaced_meanwhile(
    tmp_path: Path, database_url: str, database: Connection, is_replaced: bool
) -> None:
    row = checkpoint(tmp_path)
    publish(database, row)
    reader = Reader(tmp_path, database_url)

    def delete() -> None:
        if is_replaced:
            replace_all(database)
        shutil.rmtree(tmp_path / row["folder"])

    reader.look(cast("Connection", Meanwhile(database, delete)))
    assert reader.read == ({} if is_replaced else {row["folder"]: ["manifest.json is missing"]})


def test_who_reads_goes_on_behind_a_connection_that_broke(
    tmp_path: Path, database_url: str, database: Connection
) -> None:
    reader = Reader(tmp_path, database_url, every_seconds=0.02)
    reader.start()
    rows = [checkpoint(tmp_path, step) for step in (4, 8)]
    for count, row in enumerate(rows, start=1):
        publish(database, row)
        wait_until(lambda count=count: len(reader.read) == count, seconds=30, what="the look")  # type: ignore[misc]
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        database.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
    assert reader.stop() == {row["folder"]: [] for row in rows}
