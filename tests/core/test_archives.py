"""The zip that is never written, against Python's zipfile, Info-ZIP and itself in random pieces."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import shutil
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import IO, cast

import pytest

from backend.core.archives import Archive, ArchivedFile, describe, files_sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "artifact"
    (made / "templates").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(random.Random(0).randbytes(3_000_001))
    (made / "empty.txt").write_bytes(b"")
    (made / "templates" / "wide é 数.jinja").write_text("{{ messages }}")
    return made


def whole(archive: Archive) -> bytes:
    return b"".join(archive.read())


def test_zipfile_reads_every_file_back_with_its_checksum(folder: Path) -> None:
    archive = Archive(folder, describe(folder), root="my-model")
    data = whole(archive)
    assert len(data) == archive.length
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.testzip() is None
        names = {f"my-model/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*") if path.is_file()}
        assert set(opened.namelist()) == names
        assert all(opened.read(name) == (folder / name.removeprefix("my-model/")).read_bytes() for name in names)


def test_info_zip_finds_no_fault(folder: Path, tmp_path: Path) -> None:
    tool = shutil.which("unzip")
    if tool is None:
        pytest.skip("this machine has no unzip")
    (tmp_path / "a.zip").write_bytes(whole(Archive(folder, describe(folder))))
    told = subprocess.run([tool, "-t", str(tmp_path / "a.zip")], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "No errors detected" in told.stdout


def test_any_ranges_stitched_together_are_the_whole(folder: Path) -> None:
    archive = Archive(folder, describe(folder))
    data, dice = whole(archive), random.Random(1)
    for _ in range(200):
        start, end = sorted((dice.randrange(archive.length + 1), dice.randrange(archive.length + 1)))
        assert b"".join(archive.read(start, end)) == data[start:end]
    cuts = [0, *sorted(dice.sample(range(archive.length), 50)), archive.length]
    assert b"".join(b"".join(archive.read(*pair)) for pair in itertools.pairwise(cuts)) == data


def test_every_single_byte_at_the_seams_can_be_asked_for(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    archive = Archive(folder, describe(folder))
    data = whole(archive)
    assert b"".join(b"".join(archive.read(at, at + 1)) for at in range(archive.length)) == data


def test_the_same_files_give_the_same_bytes_and_tag_and_others_another(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    one, other = Archive(folder, describe(folder)), Archive(copied, tuple(reversed(describe(copied))))
    assert whole(one) == whole(other)
    assert one.etag == other.etag
    (copied / "empty.txt").write_text("now full")
    assert Archive(copied, describe(copied)).etag != one.etag
    assert Archive(folder, describe(folder), root="x").etag != one.etag


def test_the_hash_of_an_artifact_is_that_of_what_sha256sum_prints(folder: Path) -> None:
    files = describe(folder)
    printed = subprocess.run(
        ["sha256sum", *(file.name for file in files)], cwd=folder, capture_output=True, check=True
    ).stdout
    assert hashlib.sha256(printed).hexdigest() == files_sha256(files)


class Reached(io.RawIOBase):
    """An archive as a file that can be read anywhere, as a client with ranges reads it."""

    def __init__(self, archive: Archive) -> None:
        self.archive, self.at = archive, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.archive.length)[whence]
        return self.at

    def read(self, count: int = -1) -> bytes:
        end = self.archive.length if count < 0 else min(self.at + count, self.archive.length)
        data = b"".join(self.archive.read(self.at, end))
        self.at = end
        return data


def test_a_file_above_four_gib_is_addressed_beyond_32_bits(tmp_path: Path) -> None:
    size = (1 << 32) + 5
    with (tmp_path / "big").open("wb") as sparse:
        sparse.truncate(size)
    (tmp_path / "tail").write_bytes(b"the end")
    files = (ArchivedFile("big", size, "0" * 64, 0), ArchivedFile("tail", 7, "1" * 64, zlib.crc32(b"the end")))
    with zipfile.ZipFile(cast("IO[bytes]", Reached(Archive(tmp_path, files)))) as opened:
        big, tail = opened.infolist()
        assert (big.file_size, tail.file_size) == (size, 7)
        assert tail.header_offset > 1 << 32
        assert opened.read("tail") == b"the end"


def test_a_file_that_became_shorter_breaks_the_download_instead_of_padding_it(folder: Path) -> None:
    archive = Archive(folder, describe(folder))
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(OSError, match="shorter than when it was published"):
        whole(archive)
