"""What must outlive a power cut is synced: bytes of files, and the names in folders."""

from __future__ import annotations

import os
from pathlib import Path


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
