"""The home folder: private, ours, and refused in words where it is not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.embedded.home import (
    HomeError,
    Locked,
    lock,
    noted,
    prepare_home,
    private_folder,
    rotated_log,
    secret,
    standing_note,
    write_private,
)
from tests.support.homes import own_home

WRITER = """
import sys, time
from pathlib import Path
from backend.embedded.home import standing_note
with standing_note(Path(sys.argv[1]), "there"):
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_new_home_is_private(home: Path) -> None:
    made = prepare_home(home / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700


def test_a_new_home_has_a_folder_for_models_and_a_link_in_its_place_is_left_alone(home: Path) -> None:
    assert (prepare_home(home / "new") / "models").is_dir()
    (home / "old").mkdir()
    (home / "old" / "models").symlink_to(home / "not mounted")
    assert (prepare_home(home / "old") / "models").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_home_of_another_user_is_refused_with_the_line_that_repairs_it(home: Path) -> None:
    other = home / "other"
    other.mkdir()
    os.chown(other, 12345, 12345)
    with pytest.raises(HomeError) as refusal:
        prepare_home(other)
    assert "belongs to user 12345, and this is user 0" in refusal.value.message
    assert f"sudo chown -R 0:0 {other}" in refusal.value.hint


def test_a_home_that_cannot_be_made_is_refused_in_words(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(HomeError, match="cannot be made"):
        prepare_home(home / "file" / "inside")


def test_a_link_in_place_of_a_private_folder_is_refused(home: Path) -> None:
    (home / "run").symlink_to("/tmp")
    with pytest.raises(HomeError, match="is not a folder of ours"):
        private_folder(home / "run")


def test_a_secret_stays_the_same_and_differs_between_homes(home: Path) -> None:
    first, second = secret(home / "one"), secret(home / "two")
    assert secret(home / "one") == first != second
    assert len(first) > 30
    assert (home / "one").stat().st_mode & 0o777 == 0o600


def test_a_private_file_replaces_an_open_one_whatever_the_umask(home: Path) -> None:
    (home / "file").write_text("old")
    (home / "file").chmod(0o644)
    former = os.umask(0)
    write_private(home / "file", "new")
    os.umask(former)
    assert (home / "file").read_text() == "new"
    assert (home / "file").stat().st_mode & 0o777 == 0o600


def test_a_second_lock_is_refused_and_names_the_holder(home: Path) -> None:
    held = lock(home / "lock", note="process 7")
    with pytest.raises(Locked) as refusal:
        lock(home / "lock")
    assert refusal.value.holder == "process 7"
    os.close(held)
    os.close(lock(home / "lock"))


def test_a_note_stands_for_as_long_as_its_writer_keeps_it_however_many_read_it(home: Path) -> None:
    assert noted(home / "note") == ""
    with standing_note(home / "note", "here\n"):
        assert {noted(home / "note") for _ in range(3)} == {"here"}
        assert (home / "note").stat().st_mode & 0o777 == 0o600
    assert noted(home / "note") == ""
    assert [*home.iterdir()] == []


def test_a_note_whose_writer_was_killed_with_9_stands_no_more_and_can_be_written_anew(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, home / "note"], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert noted(home / "note") == "there"
        writer.kill()
    assert (home / "note").read_text() == "there"
    with (home / "note").open() as reading:
        fcntl.flock(reading, fcntl.LOCK_SH)  # as whoever reads it at the same time does
        assert noted(home / "note") == ""
    with standing_note(home / "note", "here"):
        assert noted(home / "note") == "here"


def test_a_fresh_log_keeps_the_one_before(home: Path) -> None:
    rotated_log(home, "web").write_text("yesterday")
    assert not rotated_log(home, "web").exists()
    assert (home / "logs" / "web.log.1").read_text() == "yesterday"


def test_the_homes_of_test_processes_that_were_killed_are_swept_away_and_no_others(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = [f"fts-{ended.pid}-a", f"fts-{os.getppid()}-b", "fts-12345678", "fts-of-somebody"]
    for name in names:
        (tmp_path / name / "data").mkdir(parents=True)
    mine = own_home(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:], mine.name}
    assert own_home(tmp_path) != mine
    assert mine.is_dir()
