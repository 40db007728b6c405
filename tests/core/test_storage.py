from __future__ import annotations

from pathlib import Path

import pytest

from backend.core.errors import NotFound
from backend.core.settings import settings
from backend.core.storage import BucketStorage, FolderStorage, Storage, storage


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return FolderStorage(tmp_path / "home")
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    return BucketStorage(bucket.as_uri(), tmp_path / "cache")


def file(tmp_path: Path, content: bytes = b"0123456789") -> Path:
    path = tmp_path / "draft"
    path.write_bytes(content)
    return path


def test_a_published_file_is_read_whole_in_parts_and_measured(store: Storage, tmp_path: Path) -> None:
    draft = file(tmp_path)
    store.publish(draft, "datasets/a/1.parquet")
    assert not draft.exists()
    assert store.fetch("datasets/a/1.parquet").read_bytes() == b"0123456789"
    assert store.read("datasets/a/1.parquet", 2, 3) == b"234"
    assert store.read("datasets/a/1.parquet", 8, 100) == b"89"
    assert store.read("datasets/a/1.parquet", 10, 1) == b""
    assert store.size("datasets/a/1.parquet") == 10


def test_only_old_files_are_listed_as_old(store: Storage, tmp_path: Path) -> None:
    store.publish(file(tmp_path), "datasets/a/1.parquet")
    assert store.old_keys("datasets", hours=1) == []
    assert store.old_keys("datasets", hours=-1) == ["datasets/a/1.parquet"]


def test_a_deleted_file_is_gone_and_deleting_again_is_no_error(store: Storage, tmp_path: Path) -> None:
    store.publish(file(tmp_path), "a/b")
    store.delete_old("a/b", hours=-1)
    store.delete_old("a/b", hours=-1)
    for ask in (store.fetch, store.size):
        with pytest.raises(NotFound):
            ask("a/b")


def test_another_machine_fetches_what_this_one_published(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    BucketStorage(bucket.as_uri(), tmp_path / "here").publish(file(tmp_path, b"x" * 20_000_000), "a/b")
    there = BucketStorage(bucket.as_uri(), tmp_path / "there")
    assert there.fetch("a/b").read_bytes() == b"x" * 20_000_000
    assert [path.name for path in (tmp_path / "there" / "a").iterdir()] == ["b"]


def test_what_was_published_anew_is_not_deleted_as_old(store: Storage, tmp_path: Path) -> None:
    store.publish(file(tmp_path), "a/b")
    store.delete_old("a/b", hours=1)
    assert store.size("a/b") == 10


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../a", "a/../b", "a//b", "a\\b", "."])
def test_a_key_that_climbs_is_refused(store: Storage, key: str) -> None:
    with pytest.raises(ValueError, match="no storage key"):
        store.fetch(key)


def test_without_a_url_files_lie_under_the_home(studio_home: Path, tmp_path: Path) -> None:
    storage(settings()).publish(file(tmp_path), "datasets/x")
    assert (studio_home / "datasets/x").is_file()
