from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, event, func, select, text
from sqlalchemy.orm import Session

from backend.core import operations, uploads
from backend.core.datasets import store
from backend.core.db import engine as make_engine
from backend.core.errors import Conflict, Invalid, NotFound
from backend.core.models import Dataset, DatasetVersion, Run
from backend.core.settings import Settings, settings
from backend.core.storage import FolderStorage, storage
from tests.core.datasets.files import alpaca, jsonl


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = make_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


def received(content: str) -> uploads.Received:
    path = settings().folder("uploads") / f"{uuid4()}.body"
    path.write_text(content)
    return uploads.Received(path, "0" * 64, len(content))


def add(session: Session, name: str, content: str) -> DatasetVersion:
    upload = store.upload(name, "rows.jsonl", received(content))
    version = store.commit_version(session, upload, store.prepare(upload, settings()))
    session.commit()
    return version


@pytest.mark.usefixtures("studio_home")
def test_versions_count_up_and_the_same_content_gives_the_same_version(session: Session) -> None:
    first = add(session, "support", jsonl(alpaca(3)))
    again = add(session, "support", jsonl(alpaca(3)))
    second = add(session, "support", jsonl(alpaca(4)))
    other = add(session, "other", jsonl(alpaca(3)))
    assert first.id == again.id
    assert (first.number, second.number, other.number) == (1, 2, 1)
    assert (second.format, second.kind, second.rows, second.source_name) == ("alpaca", "messages", 4, "rows.jsonl")
    assert store.newest(session, "support") is second
    assert store.newest(session, "support", 1) is first
    assert store.newest(session, "support", 3) is None
    assert store.newest(session, "absent") is None
    assert [version.number for version in store.versions(session, second.dataset_id)] == [2, 1]
    assert [(each.dataset.name, each.newest.number, each.versions, each.owner) for each in store.listing(session)] == [
        ("other", 1, 1, None),
        ("support", 2, 2, None),
    ]


@pytest.mark.usefixtures("studio_home")
def test_a_refused_file_leaves_neither_row_nor_file(session: Session, studio_home: Path) -> None:
    upload = store.upload("bad", "a.jsonl", received('{"instruction": "Q", "output": ""}\n'))
    with pytest.raises(Invalid):
        store.prepare(upload, settings())
    assert session.scalar(select(func.count()).select_from(Dataset)) == 0
    assert [path.name for path in studio_home.rglob("*") if path.is_file()] == [upload.path.name]


@pytest.mark.usefixtures("studio_home")
def test_rows_are_read_by_page(session: Session) -> None:
    version = add(session, "long", jsonl(alpaca(2500)))
    files = storage(settings())
    for offset, limit in ((0, 5), (998, 5), (999, 1002), (2498, 10), (2500, 10)):
        numbers = [row.number for row in store.rows(files, version, offset, limit)]
        assert numbers == list(range(1, 2501))[offset : offset + limit]


@pytest.mark.usefixtures("studio_home")
def test_a_deleted_data_set_is_out_of_sight_and_can_be_brought_back(session: Session) -> None:
    version = add(session, "support", jsonl(alpaca(3)))
    store.delete(session, "support")
    session.commit()
    assert store.newest(session, "support") is None
    assert store.listing(session) == []
    for name in ("support", "no such\0name", "\ud800"):
        with pytest.raises(NotFound):
            store.find(session, name)
    store.restore(session, version.dataset_id)
    assert store.newest(session, str(version.dataset_id)) is version


@pytest.mark.usefixtures("studio_home")
def test_a_name_that_was_taken_meanwhile_stops_the_undo(session: Session) -> None:
    old = add(session, "support", jsonl(alpaca(3)))
    store.delete(session, "support")
    add(session, "support", jsonl(alpaca(5)))
    with pytest.raises(Conflict, match="another data set"):
        store.restore(session, old.dataset_id)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc",
        "..%252f",
        "a\\..\\b",
        "a\0b",
        "a\r\nb",
        ";touch x",
        "a;b",
        "safe\u202egpj.exe",
        "",
        " a",
        "a ",
        ".hidden",
        "-rf",
        "a/b",
        "<script>",
    ],
)
def test_a_name_that_could_do_harm_is_invalid(name: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        store.upload(name, "a.jsonl", uploads.Received(tmp_path, "", 0))
    assert caught.value.code == "name.invalid"


def test_a_name_of_300_bytes_is_too_long_and_one_of_any_script_is_not() -> None:
    for name in ("x" * 300, "ü" * 150):
        with pytest.raises(Invalid, match="too long"):
            store.check_name(name)
    assert store.check_name("客服 answers_v1.2+de") == "客服 answers_v1.2+de"
    assert store.check_name("Cafe\u0301") == "Caf\u00e9"


@pytest.mark.usefixtures("studio_home")
def test_what_broke_off_and_is_being_read_anew_is_not_removed(session: Session) -> None:
    upload = store.upload("broken off", "a.jsonl", received(jsonl(alpaca(4))))
    published, files = store.prepare(upload, settings()).key, storage(settings())
    os.utime(files.fetch(published), (time.time() - 2 * 86400,) * 2)
    operations.begin(session, upload)
    store.clean_up(session, settings())
    assert files.fetch(published).exists()


@pytest.mark.parametrize("is_far", [False, True], ids=["folder", "bucket"])
def test_a_leftover_that_is_published_anew_while_leftovers_are_removed_stays(
    engine: Engine, session: Session, studio_home: Path, is_far: bool
) -> None:
    bucket = studio_home / "bucket"
    bucket.mkdir()
    here = Settings(home=studio_home, storage_url=bucket.as_uri() if is_far else "")
    upload = store.upload("again", "a.jsonl", received(jsonl(alpaca(4))))
    leftover = (bucket if is_far else studio_home) / store.prepare(upload, here).key
    os.utime(leftover, (time.time() - 2 * 86400,) * 2)
    published: list[store.Prepared] = []

    def publish_anew(*said: Any) -> None:
        """Right after it was asked which of the old files belong to a version."""
        if "dataset_versions" in said[2]:
            published.append(store.prepare(upload, here))

    event.listen(engine, "after_cursor_execute", publish_anew)
    store.clean_up(session, here)
    event.remove(engine, "after_cursor_execute", publish_anew)
    (prepared,) = published
    version = store.commit_version(session, upload, prepared)
    assert leftover.exists()
    assert len(store.rows(storage(here), version)) == 4


def many_versions(session: Session, dataset_id: UUID, newest: int = 70_000) -> int:
    """More than a statement takes parameters, unless told otherwise."""
    made = (
        "INSERT INTO dataset_versions (id, dataset_id, number, key, source_name, source_sha256, source_bytes, sha256, bytes,"
        " format, kind, rows) SELECT gen_random_uuid(), :dataset, number, 'datasets/' || number, '', '', 1, '', 1, '', '', 1"
        " FROM generate_series(2, :newest) number"
    )
    session.execute(text(made), {"dataset": dataset_id, "newest": newest})
    return newest


@pytest.mark.usefixtures("studio_home")
def test_leftovers_are_told_from_any_number_of_versions(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    version = add(session, "kept", jsonl(alpaca(3)))
    keys = [f"datasets/{number}" for number in range(2, many_versions(session, version.dataset_id) + 2)]
    removed: list[str] = []
    monkeypatch.setattr(FolderStorage, "old_keys", lambda *_: keys)
    monkeypatch.setattr(FolderStorage, "delete_old", lambda _self, key, _hours: removed.append(key))
    store.clean_up(session, settings())
    assert removed == keys[-1:]


@pytest.mark.usefixtures("studio_home")
@pytest.mark.parametrize("newest", [1, 70_000])
def test_a_data_set_of_any_number_of_versions_can_be_deleted_unless_a_run_needs_one(
    session: Session, newest: int
) -> None:
    version = add(session, "kept", jsonl(alpaca(3)))
    many_versions(session, version.dataset_id, newest)
    pin = {"version_id": str(version.id)}
    run = Run(name="waiting run", recipe={}, model={}, data=[pin], state="queued", intent="run")
    session.add(run)
    session.flush()
    with pytest.raises(Conflict, match="waiting run"):
        store.delete(session, "kept")
    run.state = "succeeded"
    session.flush()
    assert store.delete(session, "kept").deleted_at


@pytest.mark.usefixtures("studio_home")
def test_a_data_set_takes_so_many_versions_and_no_more(session: Session) -> None:
    many_versions(session, add(session, "long", jsonl(alpaca(3))).dataset_id, store.MOST_VERSIONS - 1)
    assert add(session, "long", jsonl(alpaca(4))).number == store.MOST_VERSIONS
    assert add(session, "long", jsonl(alpaca(4))).number == store.MOST_VERSIONS, "it is there already"
    with pytest.raises(Conflict, match="has 1,000 versions, and takes no more"):
        add(session, "long", jsonl(alpaca(5)))


@pytest.mark.usefixtures("studio_home")
def test_leftovers_are_removed_and_nothing_else(session: Session) -> None:
    kept = add(session, "kept", jsonl(alpaca(3)))
    forgotten = store.upload("forgotten", "a.jsonl", received(jsonl(alpaca(4))))
    orphan = store.prepare(forgotten, settings())
    files = storage(settings())
    fresh = store.prepare(store.upload("fresh", "a.jsonl", received(jsonl(alpaca(5)))), settings())
    long_ago = (time.time() - 2 * 86400,) * 2
    for path in (files.fetch(kept.key), files.fetch(orphan.key), forgotten.path):
        os.utime(path, long_ago)
    store.clean_up(session, settings())
    assert files.fetch(kept.key).exists()
    assert files.fetch(fresh.key).exists()
    assert not forgotten.path.exists()
    with pytest.raises(NotFound):
        files.fetch(orphan.key)
