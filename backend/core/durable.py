"""What must outlive a power cut is synced: bytes of files, and the names in folders."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

SYNC_FILE_RANGE_WRITE = 2


def sync(path: Path) -> None:
    """A file's bytes, or a folder's names, are on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """The same for everything below a folder, and for the folder."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def begin_sync(file: BinaryIO, offset: int, count: int) -> None:
    """Have these bytes on their way to the disk while others are still to come, so that `sync` finds little left to wait for.
    Promises nothing, and does nothing where the system has no such call."""
    if call := _sync_file_range():
        call(file.fileno(), ctypes.c_int64(offset), ctypes.c_int64(count), SYNC_FILE_RANGE_WRITE)


@cache
def _sync_file_range() -> Any:
    return getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
