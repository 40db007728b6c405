"""How much of a disk has to be free, by its size."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from worker import disks

GB, TB = 10**9, 10**12


class Disk(NamedTuple):
    """What `shutil.disk_usage` tells."""

    total: int
    free: int


@pytest.mark.parametrize(
    ("disk", "has_room", "is_low"),
    [
        (Disk(200 * TB, 1 * TB), True, False),
        (Disk(200 * TB, 50 * GB), True, True),
        (Disk(200 * TB, 4 * GB), False, True),
        (Disk(100 * GB, 12 * GB), True, False),
        (Disk(100 * GB, 2 * GB), True, True),
        (Disk(100 * GB, GB // 2), False, True),
    ],
)
def test_a_large_share_is_not_called_full_while_every_run_fits(
    disk: Disk, has_room: bool, is_low: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks.shutil, "disk_usage", lambda _: disk)  # type: ignore[attr-defined]
    assert (disks.has_room(tmp_path), bool(disks.low_on_space(tmp_path))) == (has_room, is_low)
