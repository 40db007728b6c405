"""Receiving files: in one stream, hashed as it comes, or in sessions that survive a broken connection (tus 1.0).

What is on disk is the truth: the offset of a session is the size of its part file, so a kill needs no recovery. A session
lasts until what became of its file is stored, and names that afterwards, for whoever never heard the answer.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from uuid import UUID

from sqlalchemy import orm, select

from backend.core.durable import begin_sync, sync
from backend.core.errors import Conflict, Invalid, NotFound, StudioError, TooLarge, has_no_room
from backend.core.ids import uuid7
from backend.core.models import Operation
from backend.core.tallies import Tallies

log = logging.getLogger(__name__)

TUS_VERSION = "1.0.0"
TUS_EXTENSIONS = "creation,termination"
BLOCK_BYTES = 2 << 20
"""Two of them are held while a body flows. Each is handed to a thread, which takes a tenth of a millisecond."""
WRITE_BYTES = 1 << 18
"""Linux asks for as much memory in one piece as is written at once, which in a virtual machine can take five times as long."""
WORDS = (".json", ".became")
"""Files of words beside an upload's bytes, or of what it became."""
TAKING_SECONDS = 10.0
"""How long who has read a file waits for who takes it in."""


@dataclass(frozen=True)
class Received:
    """A file that came whole."""

    path: Path
    sha256: str
    bytes: int


class Busy(StudioError):
    """Another connection is writing to this session, a dead one of which lets go within a minute, or its file is being read."""

    status = 423
    code = "upload.busy"


class DiskFull(StudioError):
    status = 507
    code = "disk_full"


class Body(Protocol):
    """What comes in."""

    async def fill(self, room: memoryview) -> int:
        """Put what comes next into `room`; how many bytes that were. Less than it holds only at the end and before a break,
        which is raised when more is asked for."""


class Chunks:
    """A body that comes in pieces of any size."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream, self._rest = stream, memoryview(b"")
        self._break: Exception | None = None

    async def fill(self, room: memoryview) -> int:
        filled = 0
        while filled < len(room) and await self._has_more():
            taken = self._rest[: len(room) - filled]
            room[filled : filled + len(taken)] = taken
            filled, self._rest = filled + len(taken), self._rest[len(taken) :]
        if self._break and not filled:
            raise self._break
        return filled

    async def _has_more(self) -> bool:
        try:
            while not self._rest and self._break is None:
                self._rest = memoryview(await anext(self._stream))
        except StopAsyncIteration:
            return False
        except Exception as error:
            self._break = error
        return bool(self._rest)


async def receive(body: Body, folder: Path, limit_bytes: int) -> Received:
    """Write a request's body to a file of its own in `folder`. What breaks off leaves nothing.

    Raises `TooLarge` as soon as more than the limit came, `DiskFull` where there is no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid7()}.body"
    digest = hashlib.sha256()
    try:
        with open(path, "xb", buffering=0) as file:
            await _stored(within(body, limit_bytes, too_large(limit_bytes)), file, digest.update)
            size = file.tell()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Received(path, digest.hexdigest(), size)


def too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"The file is larger than the limit of {limit_bytes / 2**30:g} GiB.",
        hint="Upload it in several smaller files.",
        code="upload.too_large",
    )


async def within(body: Body, room: int, error: StudioError) -> AsyncIterator[memoryview]:
    """A body in blocks that are worth a write. Raises `error` instead of one beyond `room`. A block holds until the one after
    the next is asked for: memory that is used again is not zeroed, page by page, for every block."""
    free: list[memoryview] = []
    while True:
        block = free.pop() if len(free) > 1 else memoryview(bytearray(BLOCK_BYTES))
        count = await body.fill(block)
        room -= count
        if room < 0:
            raise error
        if not count:
            return
        yield block[:count]
        free.insert(0, block)


async def _stored(blocks: AsyncIterator[memoryview], file: BinaryIO, tell: Callable[[memoryview], None]) -> None:
    """Write each block, and tell of it, in a thread while the next one comes. At the end, and at a break, all is written."""
    storing: asyncio.Task[None] | None = None
    try:
        async for block in blocks:
            if storing:
                await asyncio.shield(storing)  # also where this is called off: a thread must not write to a closed file
            storing = asyncio.create_task(asyncio.to_thread(_store, file, block, tell))
    finally:
        if storing:
            await storing


def _store(file: BinaryIO, block: memoryview, tell: Callable[[memoryview], None]) -> None:
    rest = block
    with _a_full_disk_in_words():
        while rest:
            rest = rest[file.write(rest[:WRITE_BYTES]) :]
    begin_sync(file, file.tell() - len(block), len(block))
    tell(block)


@contextmanager
def _a_full_disk_in_words() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if has_no_room(error):
            raise DiskFull("The disk is full.", hint="Make room on the server, then send it again.") from error
        raise


def settle(file: Path) -> None:
    """What came outlives a power cut, however it came: whoever has been told that it will be read need not send it again.
    Blocks. Raises `DiskFull` where the disk only now finds that it has no room."""
    with _a_full_disk_in_words():
        sync(file)
    sync(file.parent)


def _nobody(_block: memoryview) -> None:
    """For a block that nobody counts."""


# ---- sessions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """One resumable upload. `owner` is whoever may go on with it; `metadata` is what the client said of the file."""

    id: UUID
    length: int
    offset: int
    owner: str
    metadata: dict[str, str]
    begun: float = 0.0
    """When, in seconds since 1970."""
    became: str = ""
    """The address of what its file became, once that is stored."""

    @property
    def is_complete(self) -> bool:
        return self.offset == self.length


def create(folder: Path, length: int, metadata: dict[str, str], owner: str, limit_bytes: int) -> Session:
    """A new session for `length` bytes. Raises `TooLarge` and `DiskFull` before anything is sent."""
    if length > limit_bytes:
        raise too_large(limit_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < length:
        raise DiskFull("There is no room for a file of this size.", hint="Make room on the server.")
    session = Session(uuid7(), length, 0, owner, metadata, time.time())
    words = {"length": length, "owner": owner, "metadata": metadata, "begun": session.begun}
    try:
        with _a_full_disk_in_words():
            _part(folder, session.id).touch()
            _words(folder, session.id).write_text(json.dumps(words))
    except BaseException:
        drop(folder, session.id)
        raise
    return session


def session(folder: Path, id: UUID) -> Session:
    """How far a session has come, or what its file became. Raises `NotFound`."""
    for _ in range(2):  # what it became may be written between two looks
        with suppress(FileNotFoundError):
            words = _read(_became(folder, id))
            return Session(id, offset=words["length"], **words)
        with suppress(FileNotFoundError):
            words = _read(_words(folder, id))
            return Session(id, offset=_part(folder, id).stat().st_size, **words)
    raise unknown()


def _read(path: Path) -> dict[str, Any]:
    """Words that a power cut has torn are none. Raises `FileNotFoundError`."""
    try:
        words: dict[str, Any] = json.loads(path.read_text())
    except ValueError:
        raise FileNotFoundError(path) from None
    return words


def unknown() -> NotFound:
    return NotFound("There is no such upload.", hint="Start it anew.", code="upload.unknown")


def sessions(folder: Path, owner: str) -> list[Session]:
    """Somebody's uploads of which nothing became as yet, the newest first."""
    found = []
    for path in sorted(folder.glob("*.json"), reverse=True):  # ids are made in order of time
        with suppress(NotFound, ValueError):  # it ended at this moment; another's file
            found.append(session(folder, UUID(path.stem)))
    return [each for each in found if each.owner == owner and not each.became]


async def append(folder: Path, id: UUID, offset: int, body: Body, tallies: Tallies | None = None) -> Session:
    """Add what comes at `offset`, and return how far the session has come. A body that breaks off keeps what came.
    `tallies` are told what came. Nothing is added to what has become something.

    Raises `Conflict` where `offset` is not the session's, `Busy` where another connection has it, `TooLarge` beyond its length.
    """
    with taken(folder, id) as (known, file):
        if known.offset != offset:
            raise Conflict(f"The upload stands at byte {known.offset}, not {offset}.", code="upload.offset")
        if known.became or not file:
            return known
        _keep(_words(folder, id))
        tally = None
        if tallies is not None:
            tally = await asyncio.to_thread(tallies.made, id, file_name(known), _part(folder, id), offset)
        more = TooLarge(f"More came than the {known.length} bytes announced.", code="upload.length")
        await _stored(within(body, known.length - offset, more), file, tally.add if tally else _nobody)
    return session(folder, id)


@contextmanager
def taken(folder: Path, id: UUID) -> Iterator[tuple[Session, BinaryIO | None]]:
    """A session as it stands now that nobody else writes to it or takes its file, and the file where one lies there.
    Raises `NotFound`, and `Busy` where another connection has it."""
    with ExitStack() as held:
        file = None
        with suppress(NotFound):  # there are no bytes any more: what they became is told
            file = held.enter_context(_only_writer(_part(folder, id)))
        yield session(folder, id), file


def _keep(path: Path) -> None:
    """Both files of a session stay as long as one is written to. Raises `NotFound` where it was ended at this moment."""
    try:
        os.utime(path)
    except FileNotFoundError:
        raise unknown() from None


def file_name(session: Session) -> str:
    """What the file is called where it comes from."""
    return session.metadata.get("filename") or session.metadata.get("dataset", "")


def received(folder: Path, done: Session, tallies: Tallies | None = None) -> Received:
    """The file of a complete session, which is `taken`, hashed. Blocks where the hash was not kept up while it flowed.
    Raises `Conflict` where bytes are missing."""
    if not done.is_complete:
        raise Conflict(f"Only {done.offset} of {done.length} bytes have come.", code="upload.incomplete")
    path = _part(folder, done.id)
    tally = tallies.at(done.id, done.length) if tallies else None
    if tally:
        return Received(path, tally.digest.hexdigest(), done.length)
    with open(path, "rb") as body:
        return Received(path, hashlib.file_digest(body, "sha256").hexdigest(), done.length)


def become(folder: Path, id: UUID, address: str, *, keeps_file: bool) -> None:
    """What the file of a session that is `taken` became is stored and has this address; `keeps_file` where that still reads
    the file, and will remove it. It stands, so that nothing is raised where there is no room to say so for later."""
    draft = folder / f"{id}.draft"
    try:
        draft.write_text(json.dumps(_read(_words(folder, id)) | {"became": address}))
        draft.replace(_became(folder, id))
    except OSError as error:
        log.warning("nobody will be told again what upload %s became: %s", id, error)
        draft.unlink(missing_ok=True)
    if not keeps_file:
        _part(folder, id).unlink(missing_ok=True)
    _words(folder, id).unlink(missing_ok=True)


def has_been_read(file: Path, address: str) -> None:
    """Remove a file that came whole and that what has this address has read. Blocks for a while where it is `taken`: by who takes
    it in, most likely. A sender that stands still there holds up nobody for longer.

    Of one that came in a session it is said what became of it: who took it in may have been killed before it was."""
    with suppress(FileNotFoundError), open(file, "rb") as standing:
        _wait_for(standing)
        if file.with_suffix(".json").exists():
            become(file.parent, UUID(file.stem), address, keeps_file=True)
    file.unlink(missing_ok=True)


def _wait_for(file: BinaryIO) -> None:
    until = time.monotonic() + TAKING_SECONDS
    while time.monotonic() < until:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return


@contextmanager
def ending(folder: Path, id: UUID) -> Iterator[Session]:
    """A session whose file nobody takes meanwhile, to be dropped. One that still flows need not be waited for, but is to be
    dropped before its last piece can come: without an `await`.

    Raises `NotFound`, and `Busy` where its whole file is being taken.
    """
    with ExitStack() as held:
        try:
            standing, _file = held.enter_context(taken(folder, id))
        except Busy:
            standing = session(folder, id)
            if standing.is_complete:
                raise
        yield standing


def drop(folder: Path, id: UUID, needed: Collection[Path] = ()) -> None:
    """Remove what came to a session that is `taken` or `ending`, or that nobody knows of, but for what somebody still needs;
    what it became stays as it is. Nothing is raised where somebody has done it at this moment."""
    is_needed = _became(folder, id).exists() or _part(folder, id) in needed
    _became(folder, id).unlink(missing_ok=True)
    _words(folder, id).unlink(missing_ok=True)
    if not is_needed:
        _part(folder, id).unlink(missing_ok=True)


def sweep(folder: Path, older_than_hours: float, keep: Collection[Path] = ()) -> int:
    """Remove what nobody has touched for so long, but for what somebody still needs; returns how many files that were."""
    old = untouched(folder, time.time() - older_than_hours * 3600, keep)
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def being_read(session: orm.Session) -> set[Path]:
    """The uploaded files of operations that have not ended."""
    running = session.scalars(select(Operation.input).where(Operation.state == "running"))
    return {Path(words["path"]) for words in running if "path" in words}


def untouched(folder: Path, since: float, keep: Collection[Path] = ()) -> list[Path]:
    """The files that nobody has written to `since`, but for what somebody still needs."""
    files = [path for path in folder.glob("*") if path not in keep and path.is_file()]
    return [path for path in files if (touched := _touched(path)) is not None and touched < since]


def _touched(path: Path) -> float | None:
    """When it was written to last; None where it has gone meanwhile. Both files of a session are needed as long as either
    is written to: its words before the first byte of a connection comes, its bytes from then on."""
    times = []
    for each in (path, path.with_suffix(".part"), path.with_suffix(".json")):
        with suppress(FileNotFoundError):
            times.append(each.stat().st_mtime)
    return max(times, default=None)


def metadata_of(header: str) -> dict[str, str]:
    """tus's `Upload-Metadata`: `filename d29ybGQ=,private`. Raises `Invalid`."""
    found = {}
    for pair in filter(None, (pair.strip() for pair in header.split(","))):
        key, _, value = pair.partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except ValueError:
            raise Invalid(f"The value of {key!r} is not base64 of UTF-8.", where="Upload-Metadata") from None
        if "\0" in key + found[key]:
            raise Invalid(f"The value of {key!r} holds a NUL character, which no name has.", where="Upload-Metadata")
    return found


@contextmanager
def _only_writer(path: Path) -> Iterator[BinaryIO]:
    """Holds among processes too, and ends with the process that holds it."""
    try:
        found = os.open(path, os.O_WRONLY | os.O_APPEND)  # never made anew: it may have been ended at this moment
    except FileNotFoundError:
        raise unknown() from None
    with open(found, "ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("This file is being sent or read just now.", hint="Try again in a moment.") from None
        yield file


def _part(folder: Path, id: UUID) -> Path:
    return folder / f"{id}.part"


def _words(folder: Path, id: UUID) -> Path:
    return folder / f"{id}.json"


def _became(folder: Path, id: UUID) -> Path:
    """The words of one whose file became something. Lists of what is unfinished never look at these."""
    return folder / f"{id}.became"
