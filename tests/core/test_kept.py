"""What limited processes find out is kept whole or not at all, and not for ever."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

from backend.core.kept import Kept, prune

COUNTS = Kept("counts", "nothing:here", json.loads, most_bytes=1000, room_bytes=1000, timeout_seconds=1)


def test_what_was_kept_is_read_again_and_what_replaced_it_too(tmp_path: Path) -> None:
    path = tmp_path / "x.z"
    assert COUNTS.load(path) is None
    for found in ([1], [1, 2, 3, 4, 5]):
        path.write_bytes(zlib.compress(json.dumps(found).encode()))
        assert COUNTS.load(path) == found


def test_a_file_that_is_damaged_cut_off_or_unpacks_to_too_much_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    whole = zlib.compress(b"[1, 2]")
    for content in (b"", b"no zlib", whole[:-3], zlib.compress(b"{"), zlib.compress(b"[" + b" " * 2000 + b"]")):
        path = tmp_path / "x.z"
        path.write_bytes(content)
        assert COUNTS.load(path) is None
        assert not path.exists()


def test_a_cache_forgets_the_oldest(tmp_path: Path) -> None:
    for age, name in enumerate("abc"):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (age, age))
    prune(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
