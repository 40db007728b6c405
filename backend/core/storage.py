"""Where published files lie: a folder under the home, or a bucket of S3, Google or Azure. One API for both.

A file is published whole under a key that is never written again, so nobody sees half of one and nobody needs a lock.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from backend.core.durable import sync
from backend.core.errors import NotFound, Unavailable, Unstorable
from backend.core.settings import Settings

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig


log = logging.getLogger(__name__)


class Storage(Protocol):
    def publish(self, file: Path, key: str) -> None:
        """Make `file`, which lies under the home, visible under `key`. The file is gone from its place afterwards.

        Raises `Unavailable` where that may be tried again later."""

    def fetch(self, key: str) -> Path:
        """A local path of the content, for reading only. Raises `NotFound`."""

    def read(self, key: str, start: int, length: int) -> bytes:
        """A range of the content. Raises `NotFound`."""

    def size(self, key: str) -> int:
        """In bytes. Raises `NotFound`."""

    def delete_old(self, key: str, hours: float) -> None:
        """Remove it where it was published longer ago than that, and not anew meanwhile; one that is not there is no error."""

    def old_keys(self, prefix: str, hours: float) -> list[str]:
        """The keys under the folder `prefix` that were published longer ago than that."""


def storage(settings: Settings) -> Storage:
    """The storage that the settings name."""
    if not settings.storage_url:
        return FolderStorage(settings.root)
    return BucketStorage(settings.storage_url, settings.folder("cache") / "storage")


def checked(key: str) -> str:
    """Keys are relative and climb nowhere. A key is ours and never a person's, so another one is an error of ours."""
    if key.startswith("/") or "\\" in key or not key or any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"{key!r} is no storage key")
    return key


class FolderStorage:
    """Files under a folder: publishing is a rename, fetching costs nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, file: Path, key: str) -> None:
        publish_file(file, self.root / checked(key))

    def fetch(self, key: str) -> Path:
        path = self.root / checked(key)
        if not path.is_file():
            raise _missing(key)
        return path

    def read(self, key: str, start: int, length: int) -> bytes:
        with open(self.fetch(key), "rb") as file:
            file.seek(start)
            return file.read(length)

    def size(self, key: str) -> int:
        return self.fetch(key).stat().st_size

    def delete_old(self, key: str, hours: float) -> None:
        path = self.root / checked(key)
        with contextlib.suppress(FileNotFoundError):
            if _is_old(path, hours):
                path.unlink()

    def old_keys(self, prefix: str, hours: float) -> list[str]:
        files = (path for path in (self.root / checked(prefix)).rglob("*") if path.is_file())
        return sorted(path.relative_to(self.root).as_posix() for path in files if _is_old(path, hours))


def _is_old(path: Path, hours: float) -> bool:
    return path.stat().st_mtime < time.time() - hours * 3600


RETRY_SECONDS = 30
"""How long a bucket that refuses is asked again, a little later each time."""


class BucketStorage:
    """Objects under a URL such as `s3://bucket/studio`. Fetched ones are kept in a folder: they never change.

    A bucket that fails is asked again; where it stays away `Unavailable` is raised, and nothing is lost on this side.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self.url, self.cache = url, cache

    @cached_property
    def store(self) -> ObjectStore:
        from obstore.store import from_url

        if self.url.startswith("file:"):
            return from_url(self.url)
        # No options of the client: they would take the place of those of the environment, such as AWS_ALLOW_HTTP.
        patience: RetryConfig = {"max_retries": 10, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
        return from_url(self.url, retry_config=patience)

    def publish(self, file: Path, key: str) -> None:
        import obstore

        with _told(key):
            obstore.put(self.store, checked(key), file)
        publish_file(file, self.cache / key)

    def fetch(self, key: str) -> Path:
        import obstore

        path = self.cache / checked(key)
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            with _told(key), open(draft, "wb") as file:
                for block in obstore.get(self.store, key).stream(min_chunk_size=8 << 20):
                    file.write(block)
            publish_file(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        return path

    def read(self, key: str, start: int, length: int) -> bytes:
        import obstore

        length = min(length, self.size(key) - start)
        if length <= 0:
            return b""
        with _told(key):
            return bytes(obstore.get_range(self.store, checked(key), start=start, length=length))

    def size(self, key: str) -> int:
        import obstore

        with _told(key):
            return obstore.head(self.store, checked(key))["size"]

    def delete_old(self, key: str, hours: float) -> None:
        import obstore

        limit = datetime.now(UTC) - timedelta(hours=hours)
        with contextlib.suppress(NotFound), _told(key):
            if obstore.head(self.store, checked(key))["last_modified"] >= limit:
                return
            obstore.delete(self.store, key)
        (self.cache / key).unlink(missing_ok=True)

    def old_keys(self, prefix: str, hours: float) -> list[str]:
        import obstore

        limit = datetime.now(UTC) - timedelta(hours=hours)
        with _told(prefix):
            objects = [each for batch in obstore.list(self.store, checked(prefix)) for each in batch]
        return sorted(each["path"] for each in objects if each["last_modified"] < limit)


@contextlib.contextmanager
def _told(key: str) -> Iterator[None]:
    """What a bucket raises, as an error that a person may see. Its own words hold addresses, and go to the log alone."""
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except (FileNotFoundError, NotFoundError):
        raise _missing(key) from None
    except BaseError as error:
        log.warning("the storage fails for %s: %s", key, error)
        hint = "Nothing was lost. Look at the bucket and STUDIO_STORAGE_URL, then try again."
        raise Unavailable("The storage cannot be reached now.", hint=hint, code="storage") from error


def publish_file(file: Path, target: Path) -> None:
    """Move a file so that after a power cut either all of it stands at `target` or nothing does. Raises `Unstorable`."""
    with open(file, "rb+") as opened, _refused():
        os.fsync(opened.fileno())
    with _refused():
        target.parent.mkdir(parents=True, exist_ok=True)
        _move(file, target)
        sync(target.parent)


def _move(file: Path, target: Path) -> None:
    try:
        file.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        draft = target.with_name(f".{target.name}.{uuid4().hex}")
        try:
            shutil.copyfile(file, draft)
            sync(draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        file.unlink()


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unstorable(f"The file could not be stored: {error.strerror}.", hint="Is the disk full?") from error


def _missing(key: str) -> NotFound:
    return NotFound(f"The stored file {key} is gone.", hint="Has somebody removed it from the storage?")
