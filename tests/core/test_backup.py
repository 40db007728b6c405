"""A studio in a file and back: what an archive holds, what is refused, and that nothing is lost or believed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from backend.core import backup, bundle, db, disk, people, points, restore, runs
from backend.core.errors import Conflict, Invalid, NotFound, StudioError, Unavailable
from backend.core.models import (
    Artifact,
    Base,
    CheckpointRow,
    Dataset,
    DatasetVersion,
    Device,
    Failure,
    Invitation,
    Operation,
    RecipeVersion,
    Repeat,
    Role,
    Sample,
    SavedRecipe,
    SetupToken,
    Worker,
)
from backend.core.recipe import read_recipe
from backend.core.settings import Settings
from backend.core.uploads import DiskFull
from backend.embedded.service import Service
from tests.conftest import ROOT
from tests.core.conftest import RECIPE
from tests.support.disks import mounted

ODD = (0.1, float("nan"), float("inf"), -0.0, 5e-324)


def silent(_name: str, _count: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Place:
    """A home and a database: where a studio is or could be."""

    settings: Settings
    url: str

    @property
    def home(self) -> Path:
        return self.settings.root


@pytest.fixture
def empty_url(postgres_server: Service) -> Iterator[str]:
    """A database without tables."""
    name = f"empty_{uuid4().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    front, query = postgres_server.url.split("?", 1)
    yield f"{front.rsplit('/', 1)[0]}/{name}?{query}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def here(studio_home: Path, database_url: str) -> Place:
    """A studio with one of everything that a backup has a rule for."""
    place = Place(Settings(home=studio_home, DATABASE_URL=database_url), database_url)
    engine = db.engine(database_url, pool_size=1)
    with Session(engine) as session, session.begin():
        fill(session, place)
    engine.dispose()
    return place


@pytest.fixture
def there(tmp_path: Path, empty_url: str) -> Place:
    """Nothing yet."""
    home = tmp_path / "elsewhere"
    home.mkdir()
    return Place(Settings(home=home, DATABASE_URL=empty_url), empty_url)


def fill(session: Session, place: Place) -> None:
    owner = people.create(session, "ada", "argon2 of a password", Role.ADMIN, by=None)
    people.sign_in(session, owner, "Firefox", hours=1)
    people.create_token(session, owner, "laptop", role=Role.ADMIN, days=None, by=owner.id)
    session.add(SetupToken(token_hash="ab"))
    session.add(Invitation(token_hash="ab", user_id=owner.id, expires_at=datetime.now(UTC)))
    session.add(Failure(key="ab"))
    session.add(Repeat(user_id=owner.id, key="twice", fingerprint="ab", status=201, answer={"id": "x"}))
    dataset = Dataset(name="owls", owner_id=owner.id)
    session.add(dataset)
    session.flush()
    key = "datasets/ab/abcdef.parquet"
    write(place.home / key, b"PAR1 rows PAR1")
    facts = {"source_name": "owls.json", "source_sha256": "ab", "source_bytes": 1, "sha256": "abcdef", "bytes": 14}
    session.add(DatasetVersion(dataset_id=dataset.id, number=1, key=key, format="text", kind="text", rows=1, **facts))
    session.add(Operation(kind="ingest", state="running", input={"path": "/etc/passwd", "owner_id": None}))
    session.add(Worker(name="a", place=place.settings.place()))
    recipe = SavedRecipe(name="owls", owner_id=owner.id)
    session.add(recipe)
    session.flush()
    session.add(Device(worker="a", name="cpu", title="CPU", memory_bytes=1 << 30))
    session.add(RecipeVersion(recipe_id=recipe.id, number=1, body=RECIPE, created_by=owner.id))
    training_run(session, place)


def training_run(session: Session, place: Place) -> None:
    """In the midst of its training, held by a worker."""
    recipe = read_recipe(RECIPE).recipe
    run = runs.create(session, recipe=recipe, model={"path": "tiny", "revision": None}, data=[])
    token = runs.claim(
        session, worker="a", device="cpu", place=place.settings.place(), lease_seconds=30, limits=runs.Limits()
    )
    assert token
    runs.enter_training(session, run)
    folder = f"runs/{run.id}/attempt-1"
    write(place.home / folder / "events.jsonl", b"shipped\nnot yet shipped\n")
    session.execute(text("UPDATE attempts SET journal_offset = 8"))
    for step in (4, 8):
        checkpoint = f"{folder}/checkpoints/checkpoint-{step}"
        write(place.home / checkpoint / "weights.safetensors", bytes(range(256)) * 40)
        row = CheckpointRow(run_id=run.id, attempt=1, step=step, folder=checkpoint, manifest_sha256="ab", bytes=1)
        runs.publish_checkpoint(session, run, row, place=place.settings.place())
    points.store(session, run.id, {"loss": [(step, value, 1.5) for step, value in enumerate(ODD)]}, beyond=-1)
    runs.amend(session, run.id, "training.learning_rate", 1e-4, by=None)
    session.add(Sample(run_id=run.id, step=4, index=0, prompt="Who?", text="The owl.", finish="stop", tokens=3))
    adapter = f"{folder}/artifacts/adapter"
    write(place.home / adapter / "adapter.safetensors", b"weights")
    facts = {"kind": "adapter", "bytes": 7, "sha256": "ab", "files": [{"name": "adapter.safetensors"}]}
    session.add(Artifact(run_id=run.id, attempt=1, step=8, folder=adapter, **facts))


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def file(here: Place, tmp_path: Path) -> Path:
    """A backup of that studio."""
    path = tmp_path / "studio.zip"
    backup.back_up(here.settings, here.url, path, tell=silent)
    return path


def look(place: Place, statement: str) -> list[tuple[Any, ...]]:
    with backup.connected(place.url) as connection:
        return connection.execute(statement.encode()).fetchall()


def rewritten(file: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipFile], None]) -> Path:
    """An archive made of another one, as somebody hostile would make it."""
    made = file.with_name("rewritten.zip")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(made, "w") as new:
        change(old, new)
    return made


def relisted(name: str, content: bytes) -> Callable[[zipfile.ZipFile, zipfile.ZipFile], None]:
    """One more file, rightly listed."""

    def change(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        listed = json.loads(old.read(bundle.LIST))
        digest = hashlib.sha256(content).hexdigest()
        listed["files"].append({"name": name, "bytes": len(content), "sha256": digest})
        copied(old, new, but=bundle.LIST)
        new.writestr(name, content)
        new.writestr(bundle.LIST, json.dumps(listed))

    return change


def copied(old: zipfile.ZipFile, new: zipfile.ZipFile, but: str) -> None:
    for entry in old.infolist():
        if entry.filename != but:
            new.writestr(entry, old.read(entry))


# ---- what comes back ------------------------------------------------------------------------------------------------

GONE = {
    "sessions": "sign-ins end, unless they are kept",
    "invitations": "links end as sign-ins do",
    "setup_tokens": "links end as sign-ins do",
    "workers": "they tell of themselves when they start",
    "devices": "their workers tell of them",
}
"""Tables that nothing comes back of, and why."""
GROWN = {
    "users": "this machine has an account, in whose name the studio is backed up and restored",
    "audit": "both are written down",
    "run_events": "that the run was freed is told",
    "outbox": "that the run was freed is told",
}
"""Tables that have more than there was, and why."""
CHANGED = {
    "runs": ("state", "attempt", "holder", "lease_until", "place", "seq", "queued_at"),
    "attempts": ("ended_at", "cause"),
    "operations": ("state", "error", "ended_at"),
}
"""What is otherwise in the new place, since whoever held a run or worked on an upload is not there, and goes on under another
number."""


def rows_of(place: Place, table: str) -> set[str]:
    """Without what restoring changes."""
    changed = ",".join(CHANGED.get(table, ()))
    return {row for (row,) in look(place, f"SELECT (to_jsonb({table}) - '{{{changed}}}'::text[])::text FROM {table}")}


def test_every_row_comes_back_to_the_last_bit(here: Place, there: Place, tmp_path: Path) -> None:
    before = {table: rows_of(here, table) for table in Base.metadata.tables}
    backup.back_up(here.settings, here.url, tmp_path / "studio.zip", tell=silent)
    restore.restore(there.settings, there.url, tmp_path / "studio.zip", tell=silent)
    assert [table for table, rows in before.items() if not rows] == []
    for table, rows in before.items():
        found = rows_of(there, table)
        kept = set() if table in GONE else rows
        assert kept <= found if table in GROWN else kept == found, table
    values = [row[0] for row in look(there, "SELECT value FROM points ORDER BY step")]
    assert [struct.pack("d", value) for value in values] == [struct.pack("d", value) for value in ODD]


def test_every_file_that_a_row_names_comes_back_and_a_journal_as_far_as_it_was_shipped(
    here: Place, there: Place, file: Path
) -> None:
    restore.restore(there.settings, there.url, file, tell=silent)
    files = [path.relative_to(there.home) for path in there.home.rglob("*") if path.is_file()]
    kept = [path for path in files if path.parts[0] in ("datasets", "runs")]
    assert len(kept) == 5
    for path in kept:
        length = 8 if path.name == "events.jsonl" else None
        assert (there.home / path).read_bytes() == (here.home / path).read_bytes()[:length]


def test_a_run_that_was_held_is_queued_for_the_workers_of_the_new_place(there: Place, file: Path) -> None:
    restored = restore.restore(there.settings, there.url, file, tell=silent)
    assert restored.going_on == ("owls",)
    place = there.settings.place()
    assert look(there, "SELECT state, holder, lease_until, place FROM runs") == [("queued", None, None, place)]
    assert look(there, "SELECT count(*) FROM workers") == [(0,)]


def given_out(place: Place) -> int:
    """The number of the attempt at which somebody takes the run."""
    engine = db.engine(place.url, pool_size=1)
    with Session(engine) as session, session.begin():
        runs.free_own(session, "a", runs.Limits())
        token = runs.claim(
            session, worker="a", device="cpu", place=place.settings.place(), lease_seconds=30, limits=runs.Limits()
        )
    engine.dispose()
    assert token
    return token.attempt


def test_no_number_of_an_attempt_is_given_out_again_however_often_an_archive_is_restored(
    here: Place, there: Place, file: Path
) -> None:
    """What was made under it since the backup may lie on a worker's disk, and who made it may be at work yet."""
    given = [given_out(here) for _ in range(3)]
    restore.restore(there.settings, there.url, file, tell=silent)
    given += [given_out(there)]
    time.sleep(2)  # nobody brings a studio up, trains in it and loses it sooner
    restore.restore(there.settings, there.url, file, replace=True, tell=silent)
    given += [given_out(there) for _ in range(3)]
    assert given == sorted(set(given))


def test_a_run_that_has_succeeded_keeps_its_number(here: Place, there: Place, tmp_path: Path) -> None:
    altered(here, "UPDATE runs SET state = 'succeeded', holder = NULL, lease_until = NULL")
    altered(here, "UPDATE attempts SET ended_at = now()")
    backup.back_up(here.settings, here.url, tmp_path / "over.zip", tell=silent)
    restore.restore(there.settings, there.url, tmp_path / "over.zip", tell=silent)
    assert look(there, "SELECT attempt FROM runs") == [(1,)]


def test_sign_ins_and_links_end_unless_they_are_kept_and_tokens_go_on(there: Place, file: Path) -> None:
    counted = ", ".join(
        f"(SELECT count(*) FROM {table})" for table in ("sessions", "invitations", "setup_tokens", "api_tokens")
    )
    restore.restore(there.settings, there.url, file, tell=silent)
    assert look(there, f"SELECT {counted}") == [(0, 0, 0, 1)]
    restore.restore(there.settings, there.url, file, replace=True, keep_sign_ins=True, tell=silent)
    assert look(there, f"SELECT {counted}") == [(1, 1, 1, 1)]


def test_work_on_an_upload_ends_since_a_path_out_of_an_archive_is_not_followed(there: Place, file: Path) -> None:
    restore.restore(there.settings, there.url, file, tell=silent)
    assert look(there, "SELECT state, error ->> 'code' FROM operations") == [("failed", "restored")]


def test_numbers_that_postgres_allots_go_on_behind_the_highest(here: Place, there: Place, file: Path) -> None:
    restore.restore(there.settings, there.url, file, tell=silent)
    ((highest,),) = look(here, "SELECT max(id) FROM outbox")
    ((added,),) = look(there, "INSERT INTO outbox (hint, subject) VALUES ('run', 'x') RETURNING id")
    assert added > highest


def test_tables_of_an_older_revision_are_brought_to_todays(
    there: Place, studio_home: Path, empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.migrate(empty_url, "0001")
    with backup.connected(empty_url) as connection:
        row = "INSERT INTO users (id, name, password_hash, role) VALUES (gen_random_uuid(), 'ada', 'hash', 'admin')"
        connection.execute(row)
    with monkeypatch.context() as patch:  # the program of that time
        patch.setattr(db, "newest_revision", lambda: "0001")
        for writes_todays_columns in ("_this_machine", "_remember"):
            patch.setattr(backup, writes_todays_columns, lambda *_: None)
        backup.back_up(Settings(home=studio_home), empty_url, tmp_path / "old.zip", tell=silent)
    restore.restore(there.settings, there.url, tmp_path / "old.zip", replace=True, tell=silent)
    assert look(there, "SELECT name FROM users WHERE name <> 'this machine'") == [("ada",)]
    assert look(there, "SELECT version_num FROM alembic_version") == [(db.newest_revision(),)]


def test_both_are_in_the_audit(here: Place, there: Place, file: Path) -> None:
    restore.restore(there.settings, there.url, file, tell=silent)
    written = "SELECT person, action, subject FROM audit WHERE action LIKE 'studio.%'"
    assert look(here, written) == [("this machine", "studio.backup", "studio.zip")]
    assert look(there, written) == [("this machine", "studio.restore", "studio.zip")]


def test_base_models_come_along_where_they_are_asked_for(here: Place, there: Place, tmp_path: Path) -> None:
    write(here.home / "models" / "tiny" / "config.json", b"{}")
    (here.home / "models" / "tiny" / "passwd").symlink_to("/etc/passwd")
    backup.back_up(here.settings, here.url, tmp_path / "with.zip", models=True, tell=silent)
    restore.restore(there.settings, there.url, tmp_path / "with.zip", tell=silent)
    assert [path.name for path in (there.home / "models" / "tiny").iterdir()] == ["config.json"]


# ---- while the studio works -----------------------------------------------------------------------------------------


def test_while_a_backup_reads_nobody_deletes_a_published_file(here: Place) -> None:
    engine = db.engine(here.url)
    with backup.connected(here.url) as connection, Session(engine) as session:
        with backup.keeping_files(connection):
            assert not backup.begin_deleting(session)
            with pytest.raises(Conflict, match="backed up"):
                next(disk.clean_up(sessionmaker(engine).begin, here.settings))
        assert backup.begin_deleting(session)
        session.rollback()
    engine.dispose()


def test_a_file_that_is_gone_is_told_and_the_rest_is_kept(here: Place, there: Place, tmp_path: Path) -> None:
    (gone,) = here.home.glob("runs/*/attempt-1/checkpoints/checkpoint-8")
    shutil.rmtree(gone)
    made = backup.back_up(here.settings, here.url, tmp_path / "partly.zip", tell=silent)
    assert made.contents.missing == (gone.relative_to(here.home).as_posix(),)
    restore.restore(there.settings, there.url, tmp_path / "partly.zip", tell=silent)


# ---- what is refused ------------------------------------------------------------------------------------------------


def refused(there: Place, file: Path, error: type[StudioError], words: str, **options: bool) -> None:
    """And nothing was touched."""
    before = sorted(path for path in there.home.rglob("*") if path.is_file() and path.name != "place")
    with pytest.raises(error, match=words):
        restore.restore(there.settings, there.url, file, tell=silent, **options)
    assert sorted(path for path in there.home.rglob("*") if path.is_file() and path.name != "place") == before
    assert look(there, "SELECT to_regclass('users')") == [(None,)]


def test_nothing_is_written_over(here: Place, file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(Conflict, match="there already"):
        backup.back_up(here.settings, here.url, file, tell=silent)
    assert file.read_bytes() == before
    assert list(file.parent.glob(".*.part")) == []


def test_of_two_that_write_the_same_archive_the_second_is_refused_and_takes_nothing_away(tmp_path: Path) -> None:
    path = tmp_path / "studio.zip"
    with bundle.written(path, silent) as first:
        first.add("database/users.copy", [b"whole"])
        with pytest.raises(Conflict, match="is being written already"), bundle.written(path, silent):
            pytest.fail("two write the same archive")
    with zipfile.ZipFile(path) as archive:
        assert archive.read("database/users.copy") == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_backup_that_was_killed_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "studio.zip"
    (tmp_path / ".studio.zip.part").write_bytes(b"half of one")
    with bundle.written(path, silent) as archive:
        archive.add("database/users.copy", [b"whole"])
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("came", [False, True], ids=["", "and a file came meanwhile"])
def test_a_disk_without_hard_links_holds_an_archive_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, came: bool
) -> None:
    """Such a disk cannot be mounted everywhere: its answer stands for it."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "studio.zip"
    with pytest.raises(Conflict) if came else contextlib.nullcontext(), bundle.written(path, silent) as archive:
        archive.add("database/users.copy", [b"whole"])
        if came:
            path.write_bytes(b"another's")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"another's" if came else zipfile.is_zipfile(path)


def test_a_studio_is_not_restored_over_another(here: Place, file: Path) -> None:
    with pytest.raises(Conflict, match="not empty"):
        restore.restore(here.settings, here.url, file, tell=silent)
    shutil.rmtree(here.home / "runs")
    shutil.rmtree(here.home / "datasets")
    with pytest.raises(Conflict, match="There is a studio in this database"):
        restore.restore(here.settings, here.url, file, tell=silent)


def test_a_database_that_somebody_uses_is_left_alone(there: Place, file: Path) -> None:
    with backup.connected(there.url):
        refused(there, file, Conflict, "1 other connections use this database", replace=True)


@pytest.mark.parametrize("name", ["home/datasets/ab/abcdef.parquet", "database/users.copy", bundle.LIST])
def test_a_bit_that_flipped_is_refused_by_the_name_of_its_file(there: Place, file: Path, name: str) -> None:
    damaged = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        entry = archive.getinfo(name)
    header = entry.header_offset
    start = header + 30 + sum(struct.unpack_from("<HH", damaged, header + 26))
    damaged[start + entry.compress_size // 2] ^= 4
    file.write_bytes(damaged)
    refused(there, file, bundle.Damaged, re.escape(name))
    with pytest.raises(bundle.Damaged, match=re.escape(name)):
        restore.check(file, silent)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_an_archive_that_was_cut_off_is_refused(there: Place, file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    refused(there, file, bundle.Damaged, "cannot be read")


@pytest.mark.parametrize(
    "name",
    [
        "home/../evil",
        "home/runs/../../evil",
        "/etc/evil",
        "home//evil",
        "home/run/place",
        "home/runs/a\\b",
        "home/runs",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(there: Place, file: Path, name: str) -> None:
    refused(there, rewritten(file, relisted(name, b"evil")), bundle.Damaged, "outside of a studio")


def test_a_link_in_an_archive_is_refused(there: Place, file: Path) -> None:
    def change(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        name = "home/datasets/ab/abcdef.parquet"
        copied(old, new, but=name)
        link = zipfile.ZipInfo(name)
        link.external_attr = 0o120777 << 16
        new.writestr(link, old.read(name))

    refused(there, rewritten(file, change), bundle.Damaged, "no plain file")


def test_a_file_that_is_not_listed_is_refused(there: Place, file: Path) -> None:
    def change(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        copied(old, new, but="")
        new.writestr("home/runs/stranger", b"evil")

    refused(there, rewritten(file, change), bundle.Damaged, "not on its list")


def test_more_than_the_disk_holds_is_refused_before_it_is_unpacked(there: Place, file: Path) -> None:
    def change(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        listed = json.loads(old.read(bundle.LIST))
        name = next(file["name"] for file in listed["files"] if file["name"].startswith("home/runs"))
        next(file for file in listed["files"] if file["name"] == name)["bytes"] = 1 << 60
        copied(old, new, but=bundle.LIST)
        new.writestr(bundle.LIST, json.dumps(listed))
        new.getinfo(name).file_size = 1 << 60

    refused(there, rewritten(file, change), DiskFull, "unpacks to 1,152,921,5")


@pytest.mark.parametrize(
    "folder", ["../../evil", "/etc", "runs/../../evil", "runs//x", "runs/a\\\\b", "models/x", "runs/.."]
)
def test_a_row_that_names_a_folder_elsewhere_is_refused(here: Place, there: Place, tmp_path: Path, folder: str) -> None:
    with backup.connected(here.url) as connection:
        connection.execute("UPDATE checkpoints SET folder = %s WHERE step = 4", [folder])
    backup.back_up(here.settings, here.url, tmp_path / "evil.zip", tell=silent)
    with pytest.raises(bundle.Damaged, match="outside of a studio"):
        restore.restore(there.settings, there.url, tmp_path / "evil.zip", tell=silent)
    assert look(there, "SELECT to_regclass('checkpoints')") == [(None,)]


def with_a_foreign_column(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
    listed = json.loads(old.read(bundle.LIST))
    listed["tables"][0]["columns"].append("evil")
    copied(old, new, but=bundle.LIST)
    new.writestr(bundle.LIST, json.dumps(listed))


def test_a_table_that_no_studio_has_is_refused(there: Place, file: Path) -> None:
    with pytest.raises(Invalid, match="a table that a studio has not: amendments"):
        restore.restore(there.settings, there.url, rewritten(file, with_a_foreign_column), tell=silent)


def test_an_archive_of_a_newer_studio_is_refused(there: Place, file: Path) -> None:
    def change(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        listed = json.loads(old.read(bundle.LIST)) | {"revision": "9999"}
        copied(old, new, but=bundle.LIST)
        new.writestr(bundle.LIST, json.dumps(listed))

    refused(there, rewritten(file, change), Invalid, "newer studio")


def test_a_zip_of_something_else_and_no_file_at_all_are_told_apart(there: Place, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("a.txt", "a")
    refused(there, tmp_path / "other.zip", Invalid, "no backup of a studio")
    refused(there, tmp_path / "none.zip", NotFound, "There is no file")


# ---- what stands stays ----------------------------------------------------------------------------------------------

DATASET = "home/datasets/ab/abcdef.parquet"
USERS = "database/users.copy"
STRUCK = """
import errno, os, signal, sys, time
from collections import Counter
from pathlib import Path
from backend.core import restore
from backend.core.settings import Settings

import psycopg

home, url, file, moment, deed = sys.argv[1:]
reached, company = Counter(), []

def reach(what):
    reached[what] += 1
    if f"{what} {reached[what]}" != moment:
        return
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "wait":
        print("waits", flush=True)
        sys.stdin.readline()
    if deed == "fail":
        company.append(psycopg.connect(url))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

def look(event, arguments):
    if event in ("os.rename", "os.rmdir", "shutil.rmtree") or (event == "open" and str(arguments[0]) == home):
        reach(event)

sys.addaudithook(look)
settings = Settings(home=home, DATABASE_URL=url)
if file:
    restore.restore(settings, url, Path(file), replace=True, tell=lambda name, _count: reach(name))
else:
    restore.mend(settings, url)
"""
"""A process that restores, or puts in order what a restore left. Just before it does something for the so-manieth time, it is
killed, waits for a line, or cannot do it while somebody else comes to its database."""


def struck(place: Place, file: Path | str, moment: str, deed: str) -> list[str]:
    return [sys.executable, "-c", STRUCK, str(place.home), place.url, str(file), moment, deed]


def kill(place: Place, file: Path, moment: str) -> None:
    line = struck(place, file, moment, "kill")
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


TABLES = tuple(Base.metadata.tables)


@dataclass(frozen=True)
class Whole:
    """All rows and all files of a studio."""

    rows: dict[str, set[str]]
    files: dict[str, bytes]


def whole(place: Place) -> Whole:
    rows = {table: {row for (row,) in look(place, f"SELECT to_jsonb({table})::text FROM {table}")} for table in TABLES}
    return Whole(rows, {name: path.read_bytes() for name, path in files_of(place)})


def files_of(place: Place) -> Iterator[tuple[str, Path]]:
    """Those of a studio, and what a restore may have left behind."""
    for path in sorted(place.home.rglob("*")):
        name = path.relative_to(place.home).as_posix()
        if path.is_file() and not name.startswith("run/"):
            yield name, path


def stands_new(place: Place, file: Path) -> None:
    """The studio of the archive, and nothing else."""
    with zipfile.ZipFile(file) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name.startswith(bundle.HOME)}
    assert whole(place).files == {name.removeprefix(bundle.HOME): content for name, content in files.items()}
    assert look(place, "SELECT name FROM datasets") == [("owls",)]
    assert look(place, "SELECT count(*) FROM audit WHERE action = 'studio.restore'") == [(1,)]
    assert list(place.home.glob(".restore*")) == []


@pytest.fixture
def living(here: Place, file: Path) -> Place:
    """The studio that was backed up, which has gone on since: a file more, a file less, one that has grown, other rows."""
    write(here.home / "uploads" / "half", b"half of an upload")
    (here.home / DATASET.removeprefix(bundle.HOME)).unlink()
    write(here.home / "datasets/cd/cdef.parquet", b"PAR1 other rows PAR1")
    (journal,) = here.home.glob("runs/*/attempt-1/events.jsonl")
    write(journal, journal.read_bytes() + b"more\n")
    assert look(here, "UPDATE datasets SET name = 'larks' RETURNING name") == [("larks",)]
    assert file.exists()
    return here


def replaced(name: str, content: bytes) -> Callable[[zipfile.ZipFile, zipfile.ZipFile], None]:
    """A file with other content, rightly listed: its bytes are those that somebody wrote."""

    def change(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        listed = json.loads(old.read(bundle.LIST))
        (file,) = (each for each in listed["files"] if each["name"] == name)
        file |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for entry in old.infolist():
            if entry.filename not in (name, bundle.LIST):
                new.writestr(entry, old.read(entry))
        new.writestr(name, content)
        new.writestr(bundle.LIST, json.dumps(listed))

    return change


def with_a_folder_astray(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
    name = "database/checkpoints.copy"
    replaced(name, old.read(name).replace(b"runs/", b"/etc/"))(old, new)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(replaced(USERS, b"no row\n"), "does not fit into its table", id="rows that do not load"),
        pytest.param(replaced(USERS, b""), "does not fit into its table", id="rows that refer to nothing"),
        pytest.param(with_a_folder_astray, "outside of a studio", id="a folder astray"),
        pytest.param(with_a_foreign_column, "a table that a studio has not", id="a foreign column"),
    ],
)
def test_a_studio_that_is_to_be_replaced_stays_where_rows_of_the_archive_are_refused(
    living: Place, file: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipFile], None], words: str
) -> None:
    before = whole(living)
    with pytest.raises(StudioError, match=words):
        restore.restore(living.settings, living.url, rewritten(file, change), replace=True, tell=silent)
    assert whole(living) == before
    restore.restore(living.settings, living.url, file, replace=True, tell=silent)
    stands_new(living, file)


@pytest.mark.parametrize(
    ("moment", "stands"),
    [
        pytest.param(f"{DATASET} 2", "old", id="as files are unpacked"),
        pytest.param("database/runs.copy 2", "old", id="as rows are loaded"),
        pytest.param("os.rename 1", "old", id="before folders change places"),
        pytest.param("os.rename 2", "old", id="when the first was taken away"),
        pytest.param("os.rename 3", "old", id="when the first was replaced"),
        pytest.param("os.rename 6", "old", id="before the last is in its place"),
        pytest.param("open 2", "old", id="before the commit"),
        pytest.param("os.rename 7", "new", id="after the commit"),
        pytest.param("shutil.rmtree 1", "new", id="before the old one is removed"),
        pytest.param("os.rmdir 2", "new", id="as the old one is removed"),
    ],
)
def test_a_restore_that_is_killed_leaves_the_old_studio_or_the_new_one_whole(
    living: Place, file: Path, moment: str, stands: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = whole(living)
    kill(living, file, moment)
    with pytest.raises(Conflict, match="not empty"):  # what stands is not to be replaced, and yet it is tidied up
        restore.restore(living.settings, living.url, file, tell=silent)
    if stands == "old":
        assert whole(living) == before
        assert "the studio that stood before it stands" in caplog.text
    else:
        stands_new(living, file)
    restore.restore(living.settings, living.url, file, replace=True, tell=silent)
    stands_new(living, file)


@pytest.mark.parametrize(("moment", "stands"), [("os.rename 3", "old"), ("os.rename 7", "new")])
def test_the_next_start_puts_a_restore_that_was_killed_in_order(
    living: Place, file: Path, moment: str, stands: str
) -> None:
    """`studio up` and the containers migrate the database before anybody is served."""
    before = whole(living)
    kill(living, file, moment)
    told = {"STUDIO_HOME": str(living.home), "DATABASE_URL": living.url, "REDIS_URL": "redis://localhost:1/0"}
    start = [sys.executable, "-m", "backend.cli", "migrate"]
    subprocess.run(start, cwd=ROOT, env=os.environ | told, timeout=120, check=True)
    if stands == "old":
        assert whole(living) == before
    else:
        stands_new(living, file)


@dataclass
class Meanwhile:
    """Does something once, when a file of the archive is read for the second time: after it was checked."""

    name: str
    act: Callable[[], object]
    read: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str, _count: int) -> None:
        self.read[name] += 1
        if name == self.name and self.read[name] == 2:
            self.act()


def test_what_a_restore_at_work_unpacked_is_not_tidied_away(living: Place, file: Path) -> None:
    def migrate() -> None:
        with pytest.raises(Conflict, match="A restore is at work"):
            restore.mend(living.settings, living.url)

    tell = Meanwhile(DATASET, migrate)
    restore.restore(living.settings, living.url, file, replace=True, tell=tell)
    assert tell.read[DATASET] == 2
    stands_new(living, file)


def nobody_mends_beside_one_who_waits(living: Place, moment: str) -> None:
    """Another process puts a restore in order, and stands still at that moment; then it goes on to its end."""
    line = struck(living, "", moment, "wait")
    with subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout
        assert first.stdout.readline() == "waits\n"
        try:
            with pytest.raises(Conflict, match="A restore is at work"):
                restore.mend(living.settings, living.url)
        finally:
            first.communicate("go on\n", timeout=60)
    assert first.returncode == 0


def test_of_two_that_put_a_restore_in_order_one_waits(living: Place, file: Path) -> None:
    before = whole(living)
    kill(living, file, "os.rename 3")
    nobody_mends_beside_one_who_waits(living, "os.rename 1")
    restore.mend(living.settings, living.url)
    assert whole(living) == before


def test_what_is_over_is_deleted_by_one_at_a_time(living: Place) -> None:
    write(living.home / ".restored-x" / "file", b"")
    nobody_mends_beside_one_who_waits(living, "shutil.rmtree 1")
    assert list(living.home.glob(".restored-*")) == []


def test_whoever_came_as_rows_were_loaded_is_seen_before_folders_change_places(living: Place, file: Path) -> None:
    before = whole(living)
    with contextlib.ExitStack() as company:
        tell = Meanwhile("database/runs.copy", lambda: company.enter_context(backup.connected(living.url)))
        with pytest.raises(Conflict, match="1 other connections use this database"):
            restore.restore(living.settings, living.url, file, replace=True, tell=tell)
    assert whole(living) == before


def test_no_backup_reads_what_a_restore_replaces(living: Place, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "LOCK_SECONDS", 1)

    def back_up() -> None:
        with pytest.raises(Conflict, match="being deleted or backed up"):
            backup.back_up(living.settings, living.url, file.with_name("other.zip"), tell=silent)

    tell = Meanwhile("database/runs.copy", back_up)
    restore.restore(living.settings, living.url, file, replace=True, tell=tell)
    assert tell.read["database/runs.copy"] == 2
    stands_new(living, file)


@pytest.mark.parametrize("moment", ["os.rename 3", "open 2"])
def test_no_backup_is_made_of_what_a_restore_that_was_killed_left_half_old_half_new(
    living: Place, file: Path, moment: str
) -> None:
    kill(living, file, moment)
    made = sorted(file.parent.iterdir())
    with pytest.raises(Conflict, match=r"A restore is at work in .*, or broke off"):
        backup.back_up(living.settings, living.url, file.with_name("other.zip"), tell=silent)
    assert sorted(file.parent.iterdir()) == made
    restore.mend(living.settings, living.url)
    backup.back_up(living.settings, living.url, file.with_name("other.zip"), tell=silent)


@pytest.mark.parametrize("moment", ["os.rename 1", "os.rename 2", "os.rename 6"])
def test_where_a_folder_cannot_change_its_place_all_are_put_back_whoever_uses_the_database(
    living: Place, file: Path, moment: str
) -> None:
    before = whole(living)
    line = struck(living, file, moment, "fail")
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert "cannot be written: Input/output error" in done.stderr
    assert whole(living) == before


def test_what_cannot_be_deleted_keeps_no_studio_from_starting(living: Place, caplog: pytest.LogCaptureFixture) -> None:
    (living.home / ".restored-x").write_bytes(b"no folder")
    restore.mend(living.settings, living.url)
    assert "is needed no more and cannot be deleted" in caplog.text


@pytest.mark.parametrize("moment", ["os.rename 7", "shutil.rmtree 1"])
def test_a_restore_is_done_though_what_it_replaced_cannot_be_deleted(living: Place, file: Path, moment: str) -> None:
    line = struck(living, file, moment, "fail")
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "cannot be" in done.stderr) == (0, True), done.stderr
    restore.mend(living.settings, living.url)
    stands_new(living, file)


def test_whoever_starts_over_a_restore_that_broke_off_hears_what_is_in_its_way(living: Place, file: Path) -> None:
    kill(living, file, "os.rename 3")
    with backup.connected(living.url), pytest.raises(Conflict, match="other connections") as refusal:
        restore.mend(living.settings, living.url)
    assert "a restore that broke off has to be put in order first" in refusal.value.hint


def test_another_database_puts_no_restore_in_order(living: Place, file: Path, empty_url: str) -> None:
    kill(living, file, "os.rename 7")
    with pytest.raises(Conflict, match="not the one that it went into"):
        restore.mend(living.settings, empty_url)
    restore.mend(living.settings, living.url)
    stands_new(living, file)


def altered(place: Place, statement: str) -> None:
    with backup.connected(place.url) as connection:
        connection.execute(statement.encode())


def test_a_database_that_lost_its_tables_puts_no_restore_in_order(living: Place, file: Path) -> None:
    kill(living, file, "os.rename 7")
    altered(living, "ALTER TABLE alembic_version RENAME TO elsewhere")
    with pytest.raises(Conflict, match="not the one that it went into"):
        restore.mend(living.settings, living.url)
    altered(living, "ALTER TABLE elsewhere RENAME TO alembic_version")
    restore.mend(living.settings, living.url)
    stands_new(living, file)


def test_a_restore_into_nothing_that_was_killed_leaves_nothing_in_the_way_of_the_next(there: Place, file: Path) -> None:
    kill(there, file, "os.rename 3")
    restore.restore(there.settings, there.url, file, tell=silent)
    stands_new(there, file)


def test_a_database_where_something_else_is_at_work_is_told_from_one_that_is_away(living: Place, file: Path) -> None:
    before = whole(living)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
    tell = Meanwhile("database/runs.copy", lambda: look(living, f"SELECT pg_cancel_backend(pid) {others}"))
    with pytest.raises(Conflict, match="Something else is at work in the studio's database"):
        restore.restore(living.settings, living.url, file, replace=True, tell=tell)
    assert whole(living) == before


def test_an_archive_that_cannot_be_read_any_more_is_named(living: Place, file: Path) -> None:
    def hide() -> None:
        for descriptor in Path("/proc/self/fd").iterdir():
            if os.path.realpath(descriptor) == str(file):
                written = os.open(os.devnull, os.O_WRONLY)
                os.dup2(written, int(descriptor.name))
                os.close(written)

    with pytest.raises(bundle.Damaged, match="in the archive cannot be read"):
        restore.restore(living.settings, living.url, file, replace=True, tell=Meanwhile("database/audit.copy", hide))


def model_in_an_archive(here: Place, tmp_path: Path, size: int) -> Path:
    write(here.home / "models" / "tiny" / "weights", bytes(size))
    backup.back_up(here.settings, here.url, tmp_path / "with.zip", models=True, tell=silent)
    return tmp_path / "with.zip"


def test_half_a_file_of_a_base_model_does_not_stay(here: Place, there: Place, tmp_path: Path) -> None:
    file = model_in_an_archive(here, tmp_path, 100)
    write(there.home / "models" / "tiny" / "weights", bytes(50))
    restore.restore(there.settings, there.url, file, tell=silent)
    assert (there.home / "models" / "tiny" / "weights").read_bytes() == bytes(100)


def test_a_base_model_that_finds_no_room_on_another_disk_leaves_no_half_of_it(
    here: Place, there: Place, tmp_path: Path
) -> None:
    file = model_in_an_archive(here, tmp_path, 3 << 20)
    with mounted(there.home / "models", 1) as refusal:
        if refusal:
            pytest.skip(f"no file system of one's own can be mounted here: {refusal}")
        with pytest.raises(StudioError):
            restore.restore(there.settings, there.url, file, tell=silent)
        assert [path for path in (there.home / "models").rglob("*") if path.is_file()] == []


def test_a_database_that_goes_away_as_rows_are_loaded_costs_nothing(living: Place, file: Path) -> None:
    before = whole(living)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    tell = Meanwhile("database/runs.copy", lambda: look(living, f"SELECT pg_terminate_backend(pid) {others}"))
    with pytest.raises(Unavailable):
        restore.restore(living.settings, living.url, file, replace=True, tell=tell)
    assert whole(living) == before


def test_a_disk_that_fills_up_as_files_are_unpacked_costs_nothing(there: Place, file: Path) -> None:
    def change(old: zipfile.ZipFile, new: zipfile.ZipFile) -> None:
        """Small files take more of a disk than their list says."""
        listed = json.loads(old.read(bundle.LIST))
        copied(old, new, but=bundle.LIST)
        for number in range(600):
            name = f"home/runs/many/{number}"
            new.writestr(name, b"1")
            listed["files"].append({"name": name, "bytes": 1, "sha256": hashlib.sha256(b"1").hexdigest()})
        new.writestr(bundle.LIST, json.dumps(listed))

    with mounted(there.home, 1) as refusal:
        if refusal:
            pytest.skip(f"no file system of one's own can be mounted here: {refusal}")
        restore.restore(there.settings, there.url, file, tell=silent)
        before = whole(there)
        with pytest.raises(DiskFull, match="no room"):
            restore.restore(there.settings, there.url, rewritten(file, change), replace=True, tell=silent)
        assert whole(there) == before


def test_tables_of_a_newer_studio_are_not_taken_down(living: Place, file: Path) -> None:
    look(living, "UPDATE alembic_version SET version_num = '9999' RETURNING version_num")
    before = whole(living)
    with pytest.raises(Invalid, match="newer studio"):
        restore.restore(living.settings, living.url, file, replace=True, tell=silent)
    assert whole(living) == before


def test_a_folder_that_lies_on_another_disk_is_told_before_anything_is_touched(
    living: Place, file: Path, tmp_path: Path
) -> None:
    (living.home / "runs").rename(tmp_path / "runs")
    (living.home / "runs").symlink_to(tmp_path / "runs")
    before = whole(living)
    with pytest.raises(Conflict, match="leads out of"):
        restore.restore(living.settings, living.url, file, replace=True, tell=silent)
    assert whole(living) == before


def test_data_sets_go_to_the_bucket_once_all_rows_are_known_to_fit(there: Place, file: Path, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    settings = Settings(home=there.home, DATABASE_URL=there.url, storage_url=bucket.as_uri())
    with pytest.raises(bundle.Damaged):
        restore.restore(settings, there.url, rewritten(file, replaced(USERS, b"")), tell=silent)
    assert list(bucket.iterdir()) == []
    restore.restore(settings, there.url, file, tell=silent)
    assert (bucket / DATASET.removeprefix(bundle.HOME)).read_bytes() == b"PAR1 rows PAR1"
    assert [path for path in (there.home / "datasets").rglob("*") if path.is_file()] == []
