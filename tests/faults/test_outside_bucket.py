"""A bucket that refuses, breaks off or takes its time: it is asked again, and what could not be stored is still here.

First the storage alone, then a whole studio that keeps its data sets there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.commands.client import Client, Refused
from backend.core import storage
from backend.core.errors import NotFound, Unavailable
from backend.core.storage import BucketStorage
from tests.journeys.materials import Material
from tests.support.bucket import Bucket, running_bucket
from tests.support.processes import wait_until
from tests.support.studios import Studio, running_studio

SECONDS = 240.0
BROKEN = ["500", "reset", "503", "slow"]
"""Troubles that are over soon."""
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
    there.delete_old("datasets/none.parquet", hours=1)
    assert there.old_keys("datasets", hours=1) == []


def test_what_was_fetched_once_needs_no_bucket(here: BucketStorage, bucket: Bucket, draft: Path) -> None:
    here.publish(draft, "datasets/a.parquet")
    bucket.always = "503"
    assert here.fetch("datasets/a.parquet").read_bytes() == CONTENT


# ---- a studio -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def far() -> Iterator[Bucket]:
    with running_bucket() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def studio(far: Bucket, tiny_base: Path) -> Iterator[Studio]:
    with running_studio(tiny_base, STUDIO_STORAGE_URL=far.url, **far.environment) as studio:
        yield studio
        studio.stop()


def send(client: Client, material: Material, name: str) -> None:
    client.put_dataset(name, material.file, on_bytes=lambda _count: None)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_that_a_bucket_refuses_is_refused_in_words_and_is_taken_once_the_bucket_takes_it(
    studio: Studio, far: Bucket, client: Client, material: Material
) -> None:
    far.always = "403"
    with pytest.raises(Refused, match="storage cannot be reached now") as refused:
        send(client, material, "refused")
    assert (refused.value.status, refused.value.code) == (503, "storage")
    assert (client.datasets(), far.objects) == ([], {})
    assert files_in(studio.home / "uploads") == [], "no half of it is left"
    far.always, far.trouble = "", list(BROKEN)
    send(client, material, "refused")
    assert far.trouble == [], "it was asked as often as that"
    (version,) = client.dataset("refused").history
    assert (version.rows, len(far.objects)) == (material.rows, 1)


def test_a_worker_that_cannot_fetch_its_rows_says_so_and_the_run_goes_on_once_it_can(
    studio: Studio, far: Bucket, client: Client, material: Material
) -> None:
    send(client, material, "rows")
    recipe = material.recipe("rows", "far away")
    recipe["training"] |= {"max_steps": 4}
    (supervisor,) = studio.children("worker.supervisor")
    supervisor.suspend()  # until its cache is as empty as another machine's
    client.launch(recipe)
    cache = studio.home / "cache" / "storage"
    shutil.rmtree(cache)
    far.always = "403"
    supervisor.resume()
    wait_until(lambda: client.run("far away").state == "failed", seconds=SECONDS, what="the failure")
    failed = client.run("far away")
    assert failed.cause is not None
    assert (failed.cause.code, failed.cause.message) == ("storage", "The storage cannot be reached now.")
    assert files_in(cache) == []
    far.always, far.trouble = "", ["short", *BROKEN]
    client.tell("far away", "resume")
    wait_until(lambda: client.run("far away").state == "succeeded", seconds=SECONDS, what="the run's end")
    assert far.trouble == []
    assert [path.read_bytes() for path in files_in(cache)] == list(far.objects.values())
