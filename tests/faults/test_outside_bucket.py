"""A bucket that refuses, breaks off or takes its time: it is asked again, and what could not be stored is still here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.core import storage
from backend.core.errors import NotFound, Unavailable
from backend.core.storage import BucketStorage
from tests.support.bucket import Bucket, running_bucket

CONTENT = bytes(range(256)) * 40_000
"""Ten megabytes: several blocks."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with running_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        yield bucket


@pytest.fixture
def here(bucket: Bucket, tmp_path: Path) -> BucketStorage:
    return BucketStorage(bucket.url, tmp_path / "here")


@pytest.fixture
def there(bucket: Bucket, tmp_path: Path) -> BucketStorage:
    """Another machine's."""
    return BucketStorage(bucket.url, tmp_path / "there")


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    path = tmp_path / "draft.parquet"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("trouble", ["503", "reset", "slow"])
def test_a_bucket_that_fails_twice_is_asked_a_third_time(
    here: BucketStorage, there: BucketStorage, bucket: Bucket, draft: Path, trouble: str
) -> None:
    bucket.trouble += [trouble] * 2
    here.publish(draft, "datasets/a.parquet")
    assert bucket.objects["datasets/a.parquet"] == CONTENT
    assert not draft.exists()
    bucket.trouble += [trouble] * 2
    assert there.fetch("datasets/a.parquet").read_bytes() == CONTENT
    bucket.trouble += [trouble] * 2
    assert there.read("datasets/a.parquet", 1000, 5) == CONTENT[1000:1005]


def test_an_answer_that_breaks_off_in_its_middle_is_never_taken_for_the_file(
    here: BucketStorage, there: BucketStorage, bucket: Bucket, draft: Path, tmp_path: Path
) -> None:
    here.publish(draft, "datasets/a.parquet")
    bucket.trouble += ["short"]
    try:
        assert there.fetch("datasets/a.parquet").read_bytes() == CONTENT
    except Unavailable:
        assert list((tmp_path / "there").rglob("*.parquet*")) == []
    assert there.fetch("datasets/a.parquet").read_bytes() == CONTENT


@pytest.mark.parametrize("trouble", ["503", "reset"])
def test_where_a_bucket_stays_away_the_error_says_so_and_the_file_stays_where_it_is(
    here: BucketStorage,
    there: BucketStorage,
    bucket: Bucket,
    draft: Path,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 2)
    bucket.always = trouble
    began = time.monotonic()
    with pytest.raises(Unavailable, match="storage cannot be reached"):
        here.publish(draft, "datasets/a.parquet")
    assert draft.read_bytes() == CONTENT
    for ask in (there.fetch, there.size):
        with pytest.raises(Unavailable, match="storage cannot be reached"):
            ask("datasets/a.parquet")
    assert time.monotonic() - began < 60
    bucket.always = ""
    here.publish(draft, "datasets/a.parquet")
    assert there.fetch("datasets/a.parquet").read_bytes() == CONTENT


def test_what_is_not_in_a_bucket_is_told_apart_from_one_that_is_away(there: BucketStorage) -> None:
    for ask in (there.fetch, there.size):
        with pytest.raises(NotFound):
            ask("datasets/none.parquet")
    there.delete("datasets/none.parquet")
    assert there.old_keys("datasets", hours=1) == []


def test_what_was_fetched_once_needs_no_bucket(here: BucketStorage, bucket: Bucket, draft: Path) -> None:
    here.publish(draft, "datasets/a.parquet")
    bucket.always = "503"
    assert here.fetch("datasets/a.parquet").read_bytes() == CONTENT
