"""Small disks, which fill up: file systems in memory, mounted where a machine lets us."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB, PAGE = 1 << 20, 1 << 12


@contextmanager
def mounted(folder: Path, mib: int, owner: os.stat_result | None = None) -> Iterator[str]:
    """A file system of its own at `folder`, with room for so much. Yields in words why there is none; nothing where there is."""
    folder.mkdir(parents=True, exist_ok=True)
    whose = f",uid={owner.st_uid},gid={owner.st_gid},mode=0700" if owner else ""
    refusal = _mount("-t", "tmpfs", "-o", f"size={mib}m{whose}", "none", str(folder))
    try:
        yield refusal
    finally:
        if not refusal:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(disk: Path, size: int) -> bool:
    """Whether it has room for so many bytes now. It refuses fewer than it holds."""
    return not _mount("-o", f"remount,size={size}", str(disk))


def fill(disk: Path) -> bool:
    """Leave no room, whatever its size, without taking memory for what fills it. Whether that came about: others write
    meanwhile."""
    return resize(disk, shutil.disk_usage(disk).used + PAGE)


def _mount(*arguments: str) -> str:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""
