from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from uuid import UUID

import pytest

from backend.core import uploads
from backend.core.errors import Conflict, Invalid, NotFound, TooLarge
from backend.core.ids import uuid7
from tests.support.disks import fill, mounted

BODY = os.urandom(3_000_000)


class Broken(Exception):
    """The connection was lost."""


def sent(body: bytes, breaks: bool = False, piece: int = 70_000) -> uploads.Chunks:
    return uploads.Chunks(pieces(body, breaks, piece))


async def pieces(body: bytes, breaks: bool, piece: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), piece):
        yield body[start : start + piece]
        await asyncio.sleep(0)
    if breaks:
        raise Broken


def new(folder: Path, length: int = len(BODY)) -> uploads.Session:
    return uploads.create(folder, length, {"filename": "a.json"}, "ann", 1 << 30)


def test_a_session_for_which_there_is_no_room_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    with mounted(folder, 1) as refusal:
        if refusal:
            pytest.skip(f"no file system of one's own can be mounted here: {refusal}")
        assert fill(folder)
        (folder / "the last room").write_bytes(bytes(shutil.disk_usage(folder).free))
        with pytest.raises(uploads.DiskFull):
            new(folder, length=0)
        assert [path.name for path in folder.iterdir()] == ["the last room"]


async def test_a_body_is_stored_and_hashed_as_it_comes(tmp_path: Path) -> None:
    received = await uploads.receive(sent(BODY), tmp_path / "uploads", len(BODY))
    assert received.path.read_bytes() == BODY
    assert (received.sha256, received.bytes) == (hashlib.sha256(BODY).hexdigest(), len(BODY))


async def test_a_body_that_is_too_large_or_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        await uploads.receive(sent(BODY), tmp_path, len(BODY) - 1)
    with pytest.raises(Broken):
        await uploads.receive(sent(BODY, breaks=True), tmp_path, len(BODY))
    assert list(tmp_path.iterdir()) == []


async def test_a_body_that_is_called_off_leaves_nothing(tmp_path: Path) -> None:
    flowing = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield BODY
        flowing.set()
        await asyncio.Event().wait()

    receiving = asyncio.create_task(uploads.receive(uploads.Chunks(endless()), tmp_path, 1 << 30))
    await flowing.wait()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert list(tmp_path.iterdir()) == []


async def test_a_session_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    begun = new(tmp_path)
    with pytest.raises(Broken):
        await uploads.append(tmp_path, begun.id, 0, sent(BODY[:1_234_567], breaks=True))
    known = uploads.session(tmp_path, begun.id)
    assert (known.offset, known.owner, known.metadata) == (1_234_567, "ann", {"filename": "a.json"})
    with pytest.raises(Conflict, match="1234567"):
        await uploads.append(tmp_path, begun.id, 0, sent(BODY))
    assert (await uploads.append(tmp_path, begun.id, known.offset, sent(BODY[known.offset :]))).is_complete
    received = uploads.received(tmp_path, uploads.session(tmp_path, begun.id))
    assert received.path.read_bytes() == BODY
    assert received.sha256 == hashlib.sha256(BODY).hexdigest()


async def complete(folder: Path) -> uploads.Session:
    begun = new(folder)
    return await uploads.append(folder, begun.id, 0, sent(BODY))


def end(folder: Path, id: UUID, needed: Collection[Path] = ()) -> None:
    with uploads.ending(folder, id):
        uploads.drop(folder, id, needed)


async def test_a_session_names_what_its_file_became_for_whoever_never_heard_it(tmp_path: Path) -> None:
    done = await complete(tmp_path)
    with uploads.taken(tmp_path, done.id):
        pass  # whoever took it was killed
    with uploads.taken(tmp_path, done.id) as (standing, _file):
        assert uploads.received(tmp_path, standing).path.read_bytes() == BODY
        uploads.become(tmp_path, done.id, "/it", keeps_file=False)
    told = uploads.session(tmp_path, done.id)
    assert (told.offset, told.length, told.became, told.owner) == (len(BODY), len(BODY), "/it", "ann")
    assert uploads.sessions(tmp_path, "ann") == [], "it is not unfinished"
    assert [path.name for path in tmp_path.iterdir()] == [f"{done.id}.became"]
    assert await uploads.append(tmp_path, done.id, len(BODY), sent(b"more")) == told
    with pytest.raises(Conflict):
        await uploads.append(tmp_path, done.id, 0, sent(BODY))
    end(tmp_path, done.id)
    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_is_still_read_outlives_its_session(tmp_path: Path) -> None:
    done = await complete(tmp_path)
    with uploads.taken(tmp_path, done.id) as (standing, _file):
        received = uploads.received(tmp_path, standing)
        uploads.become(tmp_path, done.id, "/operation", keeps_file=True)
    assert (await uploads.append(tmp_path, done.id, len(BODY), sent(b""))).became == "/operation"
    end(tmp_path, done.id)
    assert received.path.read_bytes() == BODY


async def test_who_has_read_a_file_waits_for_who_takes_it_in_to_say_what_it_became(tmp_path: Path) -> None:
    done = await complete(tmp_path)
    with uploads.taken(tmp_path, done.id) as (standing, _file):
        path = uploads.received(tmp_path, standing).path
        reading = asyncio.create_task(asyncio.to_thread(uploads.has_been_read, path, "/as the reader says it"))
        assert not (await asyncio.wait({reading}, timeout=0.3))[0]
        uploads.become(tmp_path, done.id, "/it", keeps_file=True)
    await reading
    assert uploads.session(tmp_path, done.id).became == "/it"
    assert [path.name for path in tmp_path.iterdir()] == [f"{done.id}.became"]


async def test_a_sender_that_stands_still_does_not_hold_up_who_has_read_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "TAKING_SECONDS", 0.2)
    done = await complete(tmp_path)
    with uploads.taken(tmp_path, done.id):
        await asyncio.to_thread(uploads.has_been_read, uploads.received(tmp_path, done).path, "/it")
    assert uploads.session(tmp_path, done.id).became == "/it"
    assert [path.name for path in tmp_path.iterdir()] == [f"{done.id}.became"]


async def test_a_file_that_somebody_needs_outlives_a_session_that_never_said_so(tmp_path: Path) -> None:
    done = await complete(tmp_path)
    path = uploads.received(tmp_path, done).path
    end(tmp_path, done.id, {path})
    assert list(tmp_path.iterdir()) == [path]


async def test_nobody_takes_or_ends_what_somebody_takes_already(tmp_path: Path) -> None:
    done = await complete(tmp_path)
    with uploads.taken(tmp_path, done.id):
        with pytest.raises(uploads.Busy), uploads.taken(tmp_path, done.id):
            pass
        with pytest.raises(uploads.Busy):
            end(tmp_path, done.id)
        with pytest.raises(uploads.Busy):
            await uploads.append(tmp_path, done.id, len(BODY), sent(b""))
    end(tmp_path, done.id)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [["became"], ["became", "json"], ["became", "json", "part"]])
async def test_whoever_is_killed_while_a_session_ends_has_ended_it(tmp_path: Path, kept: list[str]) -> None:
    """At each of its steps."""
    done = await complete(tmp_path)
    before = {kind: (tmp_path / f"{done.id}.{kind}").read_bytes() for kind in ("json", "part")}
    with uploads.taken(tmp_path, done.id):
        uploads.become(tmp_path, done.id, "/it", keeps_file=False)
    for kind in kept[1:]:
        (tmp_path / f"{done.id}.{kind}").write_bytes(before[kind])
    assert uploads.session(tmp_path, done.id).became == "/it"
    assert uploads.sessions(tmp_path, "ann") == []
    with uploads.taken(tmp_path, done.id) as (standing, _file):
        assert standing.became == "/it"


async def test_what_it_became_is_told_once_where_there_is_no_room_to_keep_it(tmp_path: Path) -> None:
    done = await complete(tmp_path)
    in_the_way = tmp_path / f"{done.id}.became"
    with uploads.taken(tmp_path, done.id):
        in_the_way.mkdir()
        uploads.become(tmp_path, done.id, "/it", keeps_file=False)
    assert list(tmp_path.iterdir()) == [in_the_way]


@pytest.mark.parametrize("kind", ["json", "became"])
async def test_words_that_a_power_cut_has_torn_are_none(tmp_path: Path, kind: str) -> None:
    done = await complete(tmp_path)
    with uploads.taken(tmp_path, done.id):
        if kind == "became":
            uploads.become(tmp_path, done.id, "/it", keeps_file=False)
    (tmp_path / f"{done.id}.{kind}").write_bytes(b"")
    with pytest.raises(NotFound):
        uploads.session(tmp_path, done.id)
    assert uploads.sessions(tmp_path, "ann") == []


async def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    begun = new(tmp_path)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield BODY[: 2 << 20]
        started.set()
        await go_on.wait()

    first = asyncio.create_task(uploads.append(tmp_path, begun.id, 0, uploads.Chunks(slow())))
    await started.wait()
    with pytest.raises(uploads.Busy):
        await uploads.append(tmp_path, begun.id, 0, sent(BODY))
    go_on.set()
    assert (await first).offset == 2 << 20


async def test_a_session_takes_no_more_than_was_announced(tmp_path: Path) -> None:
    begun = new(tmp_path, 100)
    with pytest.raises(TooLarge):
        await uploads.append(tmp_path, begun.id, 0, sent(BODY))
    with pytest.raises(TooLarge):
        uploads.create(tmp_path, 2 << 30, {}, "ann", 1 << 30)


async def test_an_unfinished_session_gives_no_file(tmp_path: Path) -> None:
    begun = new(tmp_path)
    await uploads.append(tmp_path, begun.id, 0, sent(BODY[:100]))
    with pytest.raises(Conflict, match="Only 100 of"):
        uploads.received(tmp_path, uploads.session(tmp_path, begun.id))


def test_a_discarded_session_leaves_nothing(tmp_path: Path) -> None:
    end(tmp_path, new(tmp_path).id)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFound):
        end(tmp_path, uuid7())


@pytest.mark.parametrize("gone", ["part", "json"])
async def test_a_piece_for_a_session_that_is_ended_at_this_moment_makes_nothing_anew(tmp_path: Path, gone: str) -> None:
    begun = new(tmp_path)

    async def ended_meanwhile() -> AsyncIterator[bytes]:
        (tmp_path / f"{begun.id}.{gone}").unlink()  # as between another connection's two steps
        yield BODY[:10]

    with pytest.raises(NotFound):
        await uploads.append(tmp_path, begun.id, 0, uploads.Chunks(ended_meanwhile()))
    assert f"{begun.id}.{gone}" not in {path.name for path in tmp_path.iterdir()}


def test_what_was_left_lying_is_swept_and_what_is_fresh_is_not(tmp_path: Path) -> None:
    old, fresh = new(tmp_path), new(tmp_path)
    for path in tmp_path.glob(f"{old.id}*"):
        os.utime(path, (time.time() - 7200,) * 2)
    assert uploads.sweep(tmp_path, older_than_hours=1) == 2
    assert uploads.session(tmp_path, fresh.id) == fresh


async def test_an_old_upload_is_kept_whole_once_somebody_comes_back_to_it(tmp_path: Path) -> None:
    """Before the first byte of the new connection is there: its bytes of before are needed, and not its words alone."""
    begun = new(tmp_path)
    await uploads.append(tmp_path, begun.id, 0, sent(BODY[:9]))
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - 7200,) * 2)

    async def looked_at_before_the_first_byte() -> AsyncIterator[bytes]:
        assert uploads.sweep(tmp_path, older_than_hours=1) == 0
        yield BODY[9:]

    back = await uploads.append(tmp_path, begun.id, 9, uploads.Chunks(looked_at_before_the_first_byte()))
    assert back.is_complete
    assert uploads.received(tmp_path, back).path.read_bytes() == BODY


def test_metadata_is_read_and_nonsense_refused() -> None:
    assert uploads.metadata_of("filename d29ybGQ=, private") == {"filename": "world", "private": ""}
    with pytest.raises(Invalid, match="base64"):
        uploads.metadata_of("filename w!")
    with pytest.raises(Invalid, match="NUL"):
        uploads.metadata_of("filename AGE=")


def test_a_file_that_went_away_since_the_folder_was_listed_was_touched_at_no_time(tmp_path: Path) -> None:
    (tmp_path / "stays.body").touch()
    assert uploads._touched(tmp_path / "gone.body") is None
    assert uploads.untouched(tmp_path, time.time() + 60) == [tmp_path / "stays.body"]
