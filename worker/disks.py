"""A disk that is full, or nearly: recognised in the words of each library, and told before it happens."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from backend.core.errors import FULL

WORDS = tuple(os.strerror(number) for number in FULL)
"""What libraries written in other languages say of it in an error of their own."""
TORCH_WORDS = ("PytorchStreamWriter failed", "unexpected pos", "file write failed")
"""What torch says where the disk takes no more bytes; it keeps the reason to itself."""
EXIT_CODE = errno.ENOSPC
"""How a trainer ends that cannot even write that the disk is full."""
LOW_SHARE, FULL_SHARE = 0.1, 0.01
LOW_BYTES, FULL_BYTES = 100 << 30, 4 << 30
"""Shares of a small disk. Of a large one they would be more than any run writes, and so these bytes are enough."""
HINT = "Free some space, then resume the run."


def is_full(error: BaseException) -> bool:
    """Whether something could not be written because the disk, or what one may use of it, is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    words = str(error)
    return any(each in words for each in WORDS) or (
        isinstance(error, RuntimeError) and any(each in words for each in TORCH_WORDS)
    )


def has_room(folder: Path) -> bool:
    """Whether a run may begin on the folder's disk. One that can write nothing ends at once, and so would the whole queue."""
    disk = shutil.disk_usage(folder)
    return disk.free >= min(FULL_SHARE * disk.total, FULL_BYTES)


def low_on_space(folder: Path) -> str:
    """A warning where little of the folder's disk is free; else nothing."""
    disk = shutil.disk_usage(folder)
    if disk.free >= min(LOW_SHARE * disk.total, LOW_BYTES):
        return ""
    return f"The disk of the runs is nearly full: {disk.free / 1e9:.2f} GB of {disk.total / 1e9:.2f} GB are free."
