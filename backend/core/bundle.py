"""One file that holds a whole studio: a zip of hashed files, the list of which is written last.

It is written in one pass, since the sizes of tables are not known before, and read with suspicion: an archive is whatever
somebody handed over. Nothing of it is used unless its list names exactly the files that are there, each with its size, its
SHA-256 and a name that leads nowhere but into a studio.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from backend.core.archives import BROKEN
from backend.core.datasets.problems import printable
from backend.core.durable import sync
from backend.core.errors import Conflict, Invalid, NotFound, StudioError, has_no_room
from backend.core.uploads import DiskFull

LIST = "manifest.json"
TABLES, HOME = "database/", "home/"
FOLDERS = ("datasets", "runs", "models")
"""What of a home goes into an archive; a name that leads elsewhere is refused."""
PIECE_BYTES = 1 << 20
LIST_BYTES = 1 << 28
MODE = 0o100600 << 16
SUFFIXES_THAT_SHRINK = (".copy", ".json", ".jsonl", ".txt", ".md")
HASH = re.compile(r"[0-9a-f]{64}")
WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a disk that knows no hard links answers, such as one with exFAT."""

Tell = Callable[[str, int], None]
"""Hears the name of a file and how many bytes of it were just read or written."""


class Damaged(StudioError):
    """The archive is not what was written."""

    status = 422
    code = "archive.damaged"

    def __init__(self, name: str, why: str) -> None:
        words = f"{printable(name, 300)} in the archive {why}."
        super().__init__(words, hint="Take another copy of it.")


class Member(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    sha256: str


class Table(BaseModel):
    """A table's columns, in the order in which `member` holds them as Postgres's COPY writes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    columns: tuple[str, ...]

    @property
    def member(self) -> str:
        return f"{TABLES}{self.name}.copy"


class Contents(BaseModel):
    """What an archive holds. `revision` is that of the tables, `place` the storage whose files these are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: int = 1
    made_at: datetime
    revision: str
    place: str
    tables: tuple[Table, ...]
    missing: tuple[str, ...] = ()
    """Files that rows name and that were not to be had."""
    files: tuple[Member, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


# ---- writing --------------------------------------------------------------------------------------------------------


@dataclass
class Writer:
    """Adds files to an archive that is being written, and remembers what each was."""

    archive: zipfile.ZipFile
    tell: Tell
    members: list[Member] = field(default_factory=list)

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """One file, as it comes: neither it nor the archive is ever held in memory."""
        digest, size = hashlib.sha256(), 0
        with self.archive.open(_entry(name), "w", force_zip64=True) as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                size += len(piece)
                self.tell(name, len(piece))
        self.members.append(Member(name=name, bytes=size, sha256=digest.hexdigest()))

    def close(self, contents: Contents) -> Contents:
        """The list of everything comes last: an archive without it is none."""
        whole = contents.model_copy(update={"files": tuple(self.members)})
        self.archive.writestr(_entry(LIST), whole.model_dump_json(indent=1))
        return whole


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, datetime.now(UTC).timetuple()[:6])
    entry.external_attr = MODE
    shrinks = name.endswith(SUFFIXES_THAT_SHRINK)  # weights and Parquet hardly do, and take long
    entry.compress_type = zipfile.ZIP_DEFLATED if shrinks else zipfile.ZIP_STORED
    return entry


@contextmanager
def written(path: Path, tell: Tell) -> Iterator[Writer]:
    """An archive that stands at `path`, for its owner alone, once everything went well; else nothing is left of it.

    Raises `Conflict` where something is there already, and `DiskFull`.
    """
    try:
        with _draft(path) as (draft, file):
            if path.exists():
                raise _taken(path)
            with zipfile.ZipFile(file, "w", compresslevel=6) as archive:
                yield Writer(archive, tell)
            file.flush()
            os.fsync(file.fileno())
            _publish(draft, path)
            sync(path.parent)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise _no_archive(path, error) from error


@contextmanager
def _draft(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`, gone afterwards. Locked while it is written: one without a lock was left by a process that died.

    Raises `Conflict` where somebody else is writing `path`.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        _clear(draft)
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except (BlockingIOError, FileExistsError) as error:
        raise _busy(path) from error
    with open(descriptor, "w+b") as file:
        if not _is_ours(file, draft):  # another one began at the same moment, and clears it away
            raise _busy(path)
        try:
            yield draft, file
        finally:
            draft.unlink(missing_ok=True)


def _clear(draft: Path) -> None:
    """Remove what a process that died had left. Raises `BlockingIOError` where it lives."""
    with suppress(FileNotFoundError), draft.open("rb") as left:
        fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(left.fileno()), draft.stat()):
            draft.unlink()


def _is_ours(file: BinaryIO, draft: Path) -> bool:
    """Lock it. Still at its place afterwards, it is nobody else's to clear away."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), draft.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _publish(draft: Path, path: Path) -> None:
    """Never over a file that came meanwhile. Raises `FileExistsError`."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        draft.replace(path)


def _taken(path: Path) -> Conflict:
    return Conflict(f"{path} is there already.", hint="Choose another name, or remove it.", code="exists")


def _busy(path: Path) -> Conflict:
    return Conflict(
        f"{path} is being written already.", hint="Wait for it, or choose another name.", code="backup.busy"
    )


def _no_archive(path: Path, error: OSError) -> StudioError:
    if has_no_room(error):
        return DiskFull(f"There is no room for {path}.", hint="Make room, or choose another disk.")
    file = error.filename or path
    return NotFound(
        f"{file} cannot be read or written: {error.strerror}.", hint="Mend that first.", code="archive.place"
    )


# ---- reading --------------------------------------------------------------------------------------------------------


class Reader:
    """An archive whose list was read and fits its files. Whether their bytes are right, `verify` says.

    Raises `NotFound`, `Damaged`, and `Invalid` for one that no studio wrote.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise NotFound(f"There is no file {path}.") from None
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise Damaged(path.name, f"cannot be read: {error}") from None
        try:
            self.contents = self._listed(path)
            self._compare()
        except BaseException:
            self.archive.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.archive.close()

    def _listed(self, path: Path) -> Contents:
        try:
            entry = self.archive.getinfo(LIST)
        except KeyError:
            raise Invalid(f"{path.name} is no backup of a studio: it has no {LIST}.", code="archive.foreign") from None
        if entry.file_size > LIST_BYTES:
            raise Damaged(LIST, "is too long")
        try:
            contents = Contents.model_validate_json(b"".join(self._raw(LIST)))
        except ValidationError as error:
            raise Damaged(LIST, f"is not a list of files: {error.errors()[0]['msg']}") from None
        if contents.v != 1:
            raise Invalid("A newer studio wrote this archive.", hint="Update this one.", code="archive.newer")
        return contents

    def _compare(self) -> None:
        """Exactly the listed files are there, each plain and as long as listed."""
        there = self.archive.infolist()
        listed = {member.name: member for member in self.contents.files}
        tables = {table.member for table in self.contents.tables}
        if len(there) != len({entry.filename for entry in there}) or len(listed) != len(self.contents.files):
            raise Damaged(LIST, "names a file twice")
        for entry in there:
            if entry.filename != LIST:
                _check_entry(entry, listed.get(entry.filename), tables)
        if absent := (listed.keys() | tables) - {entry.filename for entry in there}:
            raise Damaged(min(absent), "is missing")

    def verify(self, tell: Tell) -> None:
        """Read every byte. Raises `Damaged` naming the first file that is not what was written."""
        for member in self.contents.files:
            for _ in self.pieces(member, tell):
                pass

    def pieces(self, member: Member, tell: Tell) -> Iterator[bytes]:
        """A file's bytes. Raises `Damaged` at its end where they were not what the list says."""
        digest, size = hashlib.sha256(), 0
        for piece in self._raw(member.name):
            digest.update(piece)
            size += len(piece)
            tell(member.name, len(piece))
            yield piece
        if (digest.hexdigest(), size) != (member.sha256, member.bytes):
            raise Damaged(member.name, "has other bytes than were written")

    def member(self, name: str) -> Member:
        return next(member for member in self.contents.files if member.name == name)

    def _raw(self, name: str) -> Iterator[bytes]:
        try:
            with self.archive.open(name) as file:
                while piece := file.read(PIECE_BYTES):
                    yield piece
        except BROKEN as error:
            raise Damaged(name, f"cannot be read: {error}") from None


def _check_entry(entry: zipfile.ZipInfo, listed: Member | None, tables: set[str]) -> None:
    name = entry.filename
    if listed is None:
        raise Damaged(name, "is not on its list")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or entry.is_dir() or entry.flag_bits & 1:
        raise Damaged(name, "is no plain file")
    if name not in tables and not is_safe(name):
        raise Damaged(name, "would lie outside of a studio")
    if entry.file_size != listed.bytes or not HASH.fullmatch(listed.sha256):
        raise Damaged(name, "is not as long as its list says")


def is_safe(name: str) -> bool:
    """Whether a name leads into one of the folders of a home that an archive may fill, and climbs nowhere."""
    parts = name.removeprefix(HOME).split("/")
    is_plain = name.isprintable() and "\\" not in name and not any(part in ("", ".", "..") for part in parts)
    return name.startswith(HOME) and is_plain and len(parts) > 1 and parts[0] in FOLDERS
