"""What limited processes find out of files that never change: once, kept on disk, until there is too much of it."""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import uuid4

from backend.core.errors import StudioError
from backend.core.limited import run_limited
from backend.core.settings import Settings
from backend.core.storage import publish_file

T = TypeVar("T")
REMEMBERED = 12
"""Files whose content stays in memory."""

_locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)


@dataclass(frozen=True)
class Kept(Generic[T]):
    """One kind of findings. Its files are named by all that they depend on, so that none is ever stale."""

    name: str
    function: str
    """Run in a limited process; writes its findings, compressed by `zlib`, to the `target` of its order."""
    read: Callable[[bytes], T]
    """From what was written. May raise whatever reading of damaged data raises."""
    most_bytes: int
    """Of one file and of what it unpacks to: what a hostile data set makes larger stays out of the web process."""
    room_bytes: int
    """Of all files; the oldest go."""
    timeout_seconds: float
    memory_mib: int = 1024

    def path(self, settings: Settings, *parts: Any) -> Path:
        name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return settings.root / "cache" / self.name / f"{name[:40]}.z"

    def load(self, path: Path) -> T | None:
        """What was found; None where there is nothing, or nothing whole."""
        try:
            status = path.stat()
            found: T = _loaded(self, path, status.st_mtime_ns, status.st_size)
        except (OSError, ValueError, KeyError, TypeError, zlib.error):
            path.unlink(missing_ok=True)
            return None
        return found

    def find(
        self,
        path: Path,
        order: dict[str, Any],
        *,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> T:
        """The findings, looked for where they are not known. Blocks; who asks second waits for what the first one finds."""
        with _locks[path]:
            found = self.load(path)
            if found is None:
                self._make(path, order, on_progress, cancelled)
                found = self.load(path)
        if found is None:
            raise StudioError("What was found could not be kept.", hint="Is the disk full?")
        return found

    def _make(self, path: Path, order: dict[str, Any], on_progress: Any, cancelled: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            run_limited(
                self.function,
                order | {"target": str(draft)},
                memory_mib=self.memory_mib,
                timeout_seconds=self.timeout_seconds,
                file_mib=self.most_bytes >> 20,
                on_progress=on_progress,
                cancelled=cancelled,
            )
            publish_file(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        prune(path.parent, self.room_bytes)


@lru_cache(maxsize=REMEMBERED)
def _loaded(kept: Kept[Any], path: Path, _changed: int, _size: int) -> Any:
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(path.read_bytes(), kept.most_bytes)
    if unpacking.unconsumed_tail or not unpacking.eof:
        raise ValueError("cut off, or far too long")
    return kept.read(content)


def prune(folder: Path, most_bytes: int) -> None:
    """Remove the oldest files of a cache until the rest fits."""
    files = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # it got its name at this moment, or somebody else removed it
            if path.is_file():
                files.append((path.stat().st_mtime, path.stat().st_size, path))
    files.sort()
    excess = sum(size for _, size, _ in files) - most_bytes
    for _, size, path in files[:-1]:
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size
