"""A Hypothesis state machine over resumable uploads: real files, compared with the bytes that were sent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from backend.core import uploads
from backend.core.errors import Conflict, NotFound, TooLarge
from backend.core.ids import uuid7
from backend.core.tallies import Tallies

LIMIT = 100
OLD_SECONDS = 3 * 3600


class Broken(Exception):
    """The connection was lost."""


@dataclass
class Sent:
    """One upload as its sender knows it."""

    owner: str
    length: int
    content: bytes = b""
    is_old: bool = False
    became: str = ""
    """What its sender is told that the file became."""
    is_read: bool = False
    """That still reads the file, which so lies there."""

    @property
    def at(self) -> int:
        return self.length if self.became else len(self.content)

    @property
    def kinds(self) -> set[str]:
        """Of the files that lie there for it."""
        return {"became" if self.became else "json"} | ({"part"} if self.is_read or not self.became else set())


async def pieces(data: bytes, size: int, *, breaks: bool) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
    if breaks:
        raise Broken


class Uploading(RuleBasedStateMachine):
    """Several people, several files, connections that break, and somebody who tidies up."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="uploading-"))
        self.known: dict[UUID, Sent] = {}
        self.ended: list[UUID] = [uuid7()]
        self.tallies = Tallies()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def chosen(self, data: st.DataObject) -> UUID:
        """An upload that goes on, or one that is over or never was."""
        return data.draw(st.sampled_from([*self.known, *self.ended]))

    def expected(self, error: type[Exception] | None) -> Any:
        return pytest.raises(error) if error else nullcontext()

    @rule(length=st.integers(0, LIMIT + 20), owner=st.sampled_from("ab"))
    def create(self, length: int, owner: str) -> None:
        with self.expected(TooLarge if length > LIMIT else None):
            made = uploads.create(self.folder, length, {"dataset": "a", "filename": "a.jsonl"}, owner, LIMIT)
            self.known[made.id] = Sent(owner, length)

    @rule(data=st.data(), off=st.sampled_from((0, 0, 0, 1, -1)), size=st.integers(1, 9), breaks=st.booleans())
    def append(self, data: st.DataObject, off: int, size: int, breaks: bool) -> None:
        """A piece at the right place or beside it, whole or broken off; what came before a break stays."""
        upload = self.chosen(data)
        sent = self.known.get(upload)
        at = sent.at + off if sent else 0
        room = sent.length - len(sent.content) if sent else 0
        piece = data.draw(st.binary(max_size=room + data.draw(st.sampled_from((0, 0, 1)))))
        error: type[Exception] | None = Broken if breaks else None
        if sent is None:
            error = NotFound
        elif off:
            error = Conflict
        elif sent.became:
            error = None  # what still comes is not looked at
        elif len(piece) > room:
            error = TooLarge
        with self.expected(error):
            body = uploads.Chunks(pieces(piece, size, breaks=breaks))
            asyncio.run(uploads.append(self.folder, upload, at, body, self.tallies))
        if sent and not off and not sent.became:
            sent.is_old = False
            sent.content += piece if len(piece) <= room else b""

    @rule(data=st.data(), is_stored=st.booleans(), is_read=st.booleans())
    def take(self, data: st.DataObject, is_stored: bool, is_read: bool) -> None:
        """The whole file is taken in, at once or by what goes on to read it; or whoever takes it breaks off. What was taken in
        says so instead."""
        upload = self.chosen(data)
        sent = self.known.get(upload)
        with self.expected(None if sent else NotFound), uploads.taken(self.folder, upload) as (standing, _file):
            assert sent
            assert standing.became == sent.became
            if sent.became:
                return
            with self.expected(None if sent.at == sent.length else Conflict):
                received = uploads.received(self.folder, standing, self.tallies)
                assert received.path.read_bytes() == sent.content
                assert (received.sha256, received.bytes) == (hashlib.sha256(sent.content).hexdigest(), sent.length)
                if is_stored:
                    sent.became, sent.is_read, sent.is_old = f"/{upload}", is_read, False
                    uploads.become(self.folder, upload, sent.became, keeps_file=is_read)

    @rule(data=st.data())
    def is_read_through(self, data: st.DataObject) -> None:
        """Whoever read a file removes it."""
        upload = self.chosen(data)
        if upload in self.known and self.known[upload].is_read:
            (self.folder / f"{upload}.part").unlink()
            self.known[upload].is_read = False

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        upload = self.chosen(data)
        with self.expected(None if upload in self.known else NotFound), uploads.ending(self.folder, upload):
            uploads.drop(self.folder, upload)
            if self.known[upload].is_read:  # whoever reads the file removes it
                (self.folder / f"{upload}.part").unlink()
            self.end(upload)

    @rule(data=st.data())
    def grow_old(self, data: st.DataObject) -> None:
        upload = self.chosen(data)
        if upload in self.known:
            self.known[upload].is_old = True
            for path in self.folder.glob(f"{upload}.*"):
                os.utime(path, (time.time() - OLD_SECONDS,) * 2)

    @rule()
    def sweep(self) -> None:
        old = [upload for upload, sent in self.known.items() if sent.is_old]
        files = sum(len(self.known[upload].kinds) for upload in old)
        assert uploads.sweep(self.folder, older_than_hours=1) == files
        for upload in old:
            self.end(upload)

    def end(self, upload: UUID) -> None:
        del self.known[upload]
        self.ended.append(upload)

    @invariant()
    def the_folder_holds_what_was_sent_and_nothing_else(self) -> None:
        names = {path.name for path in self.folder.iterdir()}
        assert names == {f"{upload}.{kind}" for upload, sent in self.known.items() for kind in sent.kinds}
        for upload, sent in self.known.items():
            found = uploads.session(self.folder, upload)
            assert (found.length, found.offset, found.owner) == (sent.length, sent.at, sent.owner)
            assert found.became == sent.became
            assert "part" not in sent.kinds or (self.folder / f"{upload}.part").read_bytes() == sent.content
            tally = self.tallies.at(upload, found.offset)
            assert tally is None or tally.digest.digest() == hashlib.sha256(sent.content).digest()
        for owner in "ab":
            own = {upload for upload, sent in self.known.items() if sent.owner == owner and not sent.became}
            assert {each.id for each in uploads.sessions(self.folder, owner)} == own
