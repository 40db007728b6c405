"""What processes did is known from outside: when each came, stood still and went."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.faults.history import Watcher, published_folders
from tests.support.processes import wait_until

SLEEP = "import time; time.sleep(60)"


def test_a_process_is_watched_from_its_start_to_its_death(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    watcher.start()
    process = subprocess.Popen([sys.executable, "-c", SLEEP], cwd=tmp_path)
    try:
        wait_until(lambda: process.pid in {each.pid for each in watcher.samples}, seconds=60, what="the first look")
        psutil.Process(process.pid).suspend()
        wait_until(
            lambda: watcher.samples[-1].status == "stopped", seconds=60, what="the look at one that stands still"
        )
    finally:
        process.kill()
        process.wait()
        gone_at = time.time()
    wait_until(lambda: not watcher.is_following(process.pid), seconds=60, what="its end")
    looks = [each for each in watcher.stop() if each.pid == process.pid]
    assert [each.at for each in looks] == sorted(each.at for each in looks)
    assert looks[0].parent == psutil.Process().pid
    living = [each.at for each in looks if each.status != "zombie"]
    assert looks[0].started < living[-1] <= gone_at


def test_what_is_wrong_with_published_files_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    for name in ("same", "cut", "other"):
        (tmp_path / "artifact" / name).write_bytes(b"bytes")
    digest = "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"
    files = [{"name": name, "bytes": 5, "sha256": digest} for name in ("same", "cut", "other", "gone")]
    (tmp_path / "artifact" / "cut").write_bytes(b"byt")
    (tmp_path / "artifact" / "other").write_bytes(b"BYTES")
    row = {"folder": "artifact", "files": files, "withdrawn_at": None}
    found = published_folders(tmp_path, [], [row, row | {"folder": "withdrawn", "withdrawn_at": "yesterday"}])
    assert found == {"artifact": ["cut has 3 bytes instead of 5", "other has other bytes", "gone is missing"]}
