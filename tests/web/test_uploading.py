"""Files on their way in: looked at before they are sent, counted while they flow, gone on with, mapped, listed."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import socket
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from backend.core import operations, uploads
from backend.core.datasets import store
from backend.core.db import engine_once
from backend.core.models import Audit, DatasetVersion, Operation, Role, User
from backend.core.settings import Settings
from backend.core.uploads import Received
from backend.web import bodies
from tests.support.processes import wait_until
from tests.web.conftest import account, client_of, queued_run

ROW = b'{"instruction": "Who eats mice?", "output": "The owl."}\n'
TABLE = b"Frage\r,Antwort,Nummer\r\n" + b'"Wer\njagt?",Die Eule.,7\r\n' * 3
PIECE = {"content-type": "application/offset+octet-stream"}
Way = Callable[[httpx.AsyncClient, bytes], Awaitable[httpx.Response]]


@pytest.fixture
def here(studio_home: Path, database_url: str, valkey_url: str) -> Settings:
    """Files of more than a MiB are read later."""
    return Settings(home=studio_home, DATABASE_URL=database_url, REDIS_URL=valkey_url, inline_mib=1)


async def looked(client: httpx.AsyncClient, head: bytes, filename: str, size: int = 0, **choice: str) -> httpx.Response:
    query = {"filename": filename, "size": str(size or len(head)), **choice}
    return await client.post("/api/v1/datasets/probe", params=query, content=head)


def metadata(**words: str) -> dict[str, str]:
    return {"upload-metadata": ",".join(f"{key} {b64encode(text.encode()).decode()}" for key, text in words.items())}


async def begun(client: httpx.AsyncClient, length: int, **words: str) -> str:
    made = await client.post("/api/v1/uploads", headers={"upload-length": str(length)} | metadata(**words))
    assert made.status_code == 201, made.text
    return made.headers["location"]


async def send(client: httpx.AsyncClient, place: str, offset: int, piece: bytes) -> httpx.Response:
    return await client.patch(place, content=piece, headers=PIECE | {"upload-offset": str(offset)})


async def test_the_beginning_of_a_file_tells_its_shape_and_its_first_rows(member: httpx.AsyncClient) -> None:
    told = (await looked(member, (ROW * 4000)[: 200 << 10], "owls.jsonl", size=10**9)).json()
    assert (told["file"], told["format"], told["is_whole"]) == ("jsonl", "alpaca", False)
    assert told["mapping"] == {"instruction": "instruction", "output": "output"}
    assert [turn["content"] for turn in told["rows"][0]["messages"]] == ["Who eats mice?", "The owl."]
    assert told["columns"][1] == {"name": "output", "examples": ["The owl."]}
    assert (len(told["rows"]), told["bad"], told["error"]) == (3, 0, None)


async def test_unknown_columns_are_told_with_every_shape_and_a_choice_is_shown_at_once(
    member: httpx.AsyncClient,
) -> None:
    told = (await looked(member, TABLE, "fragen.csv")).json()
    assert (told["format"], told["error"]["code"]) == (None, "rows.unknown_shape")
    assert [column["name"] for column in told["columns"]] == ["Frage", "Antwort", "Nummer"]
    pairs = next(each for each in told["formats"] if each["name"] == "prompt_completion")
    assert [part["name"] for part in pairs["parts"] if part["required"]] == ["prompt", "completion"]
    choice = {"prompt": "Frage", "completion": "Antwort"}
    chosen = await looked(member, TABLE, "fragen.csv", format="prompt_completion", columns=json.dumps(choice))
    assert chosen.json()["mapping"] == choice
    assert chosen.json()["rows"][0]["messages"][0]["content"] == "Wer\njagt?"


async def test_what_stands_in_the_way_is_told_in_the_readers_language(member: httpx.AsyncClient) -> None:
    member.headers["accept-language"] = "zh"
    told = (await looked(member, TABLE, "fragen.csv")).json()["error"]
    assert "Frage, Antwort, Nummer" in told["message"]
    assert "No known shape" not in told["message"]


async def test_a_role_that_cannot_be_played_is_told_by_row(member: httpx.AsyncClient) -> None:
    nested = b'{"data": {"q": "Who?"}, "answer": "The owl."}\n' * 2
    choice = json.dumps({"prompt": "data", "completion": "answer"})
    told = (await looked(member, nested, "a.jsonl", format="prompt_completion", columns=choice)).json()
    assert (told["bad"], told["rows"]) == (2, [])
    assert "an object here, not text" in told["problems"][0]["message"]
    dotted = json.dumps({"prompt": "data.q", "completion": "answer"})
    told = (await looked(member, nested, "a.jsonl", format="prompt_completion", columns=dotted)).json()
    assert told["error"]["code"] == "rows.missing_column"
    assert (await looked(member, nested, "a.jsonl", columns="[1]")).status_code == 422


async def test_a_file_without_a_single_row_that_can_be_read_is_refused_before_it_is_sent(
    member: httpx.AsyncClient,
) -> None:
    blank = (await looked(member, b"\n \n", "blank.jsonl")).json()["error"]
    assert blank["code"] == "file.no_rows"
    broken = (await looked(member, b"a,b\n1,2\n", "table.jsonl")).json()["error"]
    assert (broken["code"], len(broken["problems"])) == ("file.bad_rows", 2)
    assert "leave them out" not in broken["hint"]  # nothing would be left
    sent = await member.put("/api/v1/datasets/table?filename=table.jsonl", content=b"a,b\n1,2\n")
    assert sent.json()["error"]["code"] == "file.bad_rows"


async def test_a_header_that_is_cut_off_by_the_look_is_no_fault_of_the_file(member: httpx.AsyncClient) -> None:
    header = ",".join(f"column_{at}" for at in range(40_000)).encode()
    told = await looked(member, header[: 200 << 10], "wide.csv", size=len(header) * 2)
    assert (told.status_code, told.json()["columns"]) == (200, [])


HOSTILE: Mapping[str, tuple[str, bytes, int]] = {
    "a bomb": ("bomb.jsonl.gz", gzip.compress(b'{"a": "' + b"a" * 50_000_000), 0),
    "a line of ten megabytes": ("long.jsonl.gz", gzip.compress(b'{"text": "' + b"a" * 10_000_000 + b'"}\n'), 0),
    "noise": ("noise.jsonl", os.urandom(200_000), 0),
    "deep JSON": ("deep.jsonl", b'{"a":' * 50_000 + b"\n", 0),
    "a deep list": ("deep.json", b'[{"a":' + b"[" * 200_000, 10**9),
    "twenty thousand columns": ("wide.csv", b",".join(b"c%d" % at for at in range(20_000)) + b"\n1\n", 0),
    "half an archive": ("half.jsonl.gz", gzip.compress(ROW * 9)[:40], 0),
    "what claims to be Parquet": ("fake.parquet", b"PAR1" + os.urandom(5000) + b"PAR1", 0),
    "nothing": ("empty.jsonl", b"", 0),
}


async def test_a_hostile_beginning_is_answered_in_words_and_in_time(member: httpx.AsyncClient) -> None:
    for what, (name, body, size) in HOSTILE.items():
        started = time.monotonic()
        answer = await looked(member, body[: 256 << 10], name, size=size or len(body))
        assert time.monotonic() - started < 6, what
        told = answer.json()
        assert told["error"]["message"].endswith(".") if answer.status_code == 422 else told["rows"] == [], what


async def test_a_look_takes_no_more_than_a_beginning_and_no_viewers(
    member: httpx.AsyncClient, viewer: httpx.AsyncClient
) -> None:
    assert (await looked(member, b"a" * (300 << 10), "a.txt")).status_code == 413
    assert (await looked(viewer, ROW, "a.jsonl")).status_code == 403


async def test_columns_are_mapped_into_a_data_set_by_either_way(member: httpx.AsyncClient) -> None:
    choice = {"format": "prompt_completion", "columns": json.dumps({"prompt": "Frage", "completion": "Antwort"})}
    put = await member.put("/api/v1/datasets/put", params={"filename": "f.csv", **choice}, content=TABLE)
    assert put.status_code == 201, put.text
    place = await begun(member, len(TABLE), dataset="tus", filename="f.csv", **choice)
    assert (await send(member, place, 0, TABLE)).headers["location"].startswith("/api/v1/datasets/")
    for name in ("put", "tus"):
        rows = (await member.get(f"/api/v1/datasets/{name}/rows")).json()["rows"]
        assert [turn["content"] for turn in rows[0]["messages"]] == ["Wer\njagt?", "Die Eule."]


async def test_an_optional_role_can_be_left_out(member: httpx.AsyncClient) -> None:
    body = b'{"instruction": "Who?", "context": "a note to myself", "output": "The owl."}\n'
    query = {"format": "alpaca", "columns": '{"input": ""}'}
    await member.put("/api/v1/datasets/owls", params=query, content=body)
    rows = (await member.get("/api/v1/datasets/owls/rows")).json()["rows"]
    assert rows[0]["messages"][0]["content"] == "Who?"


COUNTED = (
    ("a.jsonl", ROW * 5000 + b"\n\n", 5000),
    ("a.jsonl.gz", gzip.compress(ROW * 30_000), 30_000),
    ("a.csv", b"prompt,completion\n" + b'"one\ntwo ""three""",four\n' * 4000, 4000),
    ("a.txt", b"one line\n\n" * 4000 + b"the last", 4001),
)


async def test_rows_are_counted_while_they_flow(member: httpx.AsyncClient) -> None:
    for name, body, rows in COUNTED:
        place = await begun(member, len(body) + 1, dataset="owls", filename=name)
        third = len(body) // 3
        for at in range(0, len(body), third):
            answer = await send(member, place, at, body[at : at + third])
        assert int(answer.headers["upload-rows"]) == rows, name
        assert int((await member.head(place)).headers["upload-rows"]) == rows, name


async def put_whole(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    return await client.put("/api/v1/datasets/owls?filename=owls.jsonl", content=body)


async def send_whole(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    return await send(client, await begun(client, len(body), dataset="owls", filename="owls.jsonl"), 0, body)


@pytest.mark.parametrize("way", [put_whole, send_whole])
async def test_a_file_that_is_read_later_is_on_the_disk_before_anybody_is_told_so(
    member: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    body = ROW * 20_000
    sync, synced = os.fsync, list[int]()

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    answer = await way(member, body)
    assert "/operations/" in answer.headers["location"], answer.text
    assert len(body) in synced


@pytest.mark.parametrize("way", [put_whole, send_whole])
async def test_a_disk_that_is_full_when_a_file_is_to_be_kept_says_so_and_keeps_nothing(
    member: httpx.AsyncClient, here: Settings, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    answer = await way(member, ROW * 20_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert list(here.folder("uploads").iterdir()) == []


async def ended(session: Session) -> Operation:
    """The only operation, as it ended."""
    operation = session.scalars(select(Operation)).one()
    for _ in range(400):
        await asyncio.sleep(0.05)
        session.refresh(operation)
        if operation.state != "running":
            break
    return operation


@pytest.mark.parametrize("way", [put_whole, send_whole])
@pytest.mark.parametrize(("stood", "state", "versions"), [(False, "failed", 1), (True, "succeeded", 2)])
async def test_a_file_becomes_a_version_of_anothers_data_set_only_where_that_stood_and_its_sender_might_change_it(
    app: FastAPI,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    stood: bool,
    state: str,
    versions: int,
) -> None:
    """It may be deleted when a file is sent, and be brought back while that is read."""
    read_on, run_operation = threading.Event(), operations.run_operation

    def run_later(*work: Any, **options: Any) -> None:
        read_on.wait(30)
        run_operation(*work, **options)

    monkeypatch.setattr(operations, "run_operation", run_later)
    ada, bob = account(session, Role.MEMBER, "ada"), account(session, Role.ADMIN if stood else Role.MEMBER, "bob")
    async with client_of(app, ada.headers) as owner, client_of(app, bob.headers) as sender:
        assert (await put_whole(owner, ROW)).status_code == 201
        if not stood:
            assert (await owner.delete("/api/v1/datasets/owls")).status_code == 204
        assert "/operations/" in (await way(sender, ROW * 20_000)).headers["location"]
        if not stood:
            assert (await owner.post("/api/v1/datasets/owls/restore")).status_code == 200
        session.execute(update(User).where(User.name == "bob").values(role=Role.MEMBER))
        session.commit()
        read_on.set()
        assert (await ended(session)).state == state
        assert (await owner.get("/api/v1/datasets/owls")).json()["versions"] == versions


async def test_a_folder_that_takes_no_file_is_told_and_what_came_in_pieces_waits_for_it(
    member: httpx.AsyncClient, here: Settings
) -> None:
    (here.root / "datasets").write_text("in the way of a folder")
    put = await put_whole(member, ROW)
    assert (put.status_code, put.json()["error"]["code"]) == (507, "storage.refused")
    assert list(here.folder("uploads").iterdir()) == []
    place = await begun(member, len(ROW), dataset="owls", filename="owls.jsonl")
    assert (await send(member, place, 0, ROW)).status_code == 507
    (waiting,) = (await member.get("/api/v1/uploads")).json()
    assert waiting["offset"] == waiting["length"]
    (here.root / "datasets").unlink()
    made = await send(member, place, len(ROW), b"")
    assert made.headers["location"].startswith("/api/v1/datasets/"), made.text
    assert [path.suffix for path in here.folder("uploads").iterdir()] == [".became"]


async def test_what_a_finished_upload_became_is_told_to_its_owner_alone(
    member: httpx.AsyncClient, app: FastAPI, session: Session, here: Settings
) -> None:
    place = await begun(member, len(ROW), dataset="owls", filename="owls.jsonl")
    made = (await send(member, place, 0, ROW)).headers["location"]
    assert (await member.head(place)).headers["location"] == made
    assert (await send(member, place, len(ROW), b"more")).headers["location"] == made
    assert (await send(member, place, 0, ROW)).status_code == 409
    async with client_of(app, account(session, Role.ADMIN).headers) as other:
        assert (await other.head(place)).status_code == 404
        assert (await send(other, place, len(ROW), b"")).status_code == 404
        assert (await other.delete(place)).status_code == 404
    assert (await member.delete(place)).status_code == 204
    assert list(here.folder("uploads").iterdir()) == []
    assert [each["name"] for each in (await member.get("/api/v1/datasets")).json()] == ["owls"]


async def test_a_file_that_is_being_taken_is_not_taken_twice_nor_called_off(
    member: httpx.AsyncClient, here: Settings
) -> None:
    place = await begun(member, len(ROW), dataset="owls", filename="owls.jsonl")
    folder, id = here.folder("uploads"), UUID(place.rpartition("/")[2])
    (folder / f"{id}.part").write_bytes(ROW)
    with uploads.taken(folder, id):
        assert (await send(member, place, len(ROW), b"")).status_code == 423
        assert (await member.delete(place)).status_code == 423
    assert (await send(member, place, len(ROW), b"")).status_code == 204


async def test_calling_off_leaves_a_file_that_an_operation_reads(
    member: httpx.AsyncClient, session: Session, here: Settings
) -> None:
    """Also where the web died before it wrote down what the file became."""
    place = await begun(member, len(ROW), dataset="owls", filename="owls.jsonl")
    part = here.folder("uploads") / f"{place.rpartition('/')[2]}.part"
    part.write_bytes(ROW)
    operations.begin(session, store.upload("owls", "owls.jsonl", Received(part, "0" * 64, len(ROW))))
    session.commit()
    assert (await member.delete(place)).status_code == 204
    assert part.read_bytes() == ROW


async def test_what_an_operation_made_of_a_file_is_told_though_who_took_it_in_died_before_it_could_say_so(
    member: httpx.AsyncClient, session: Session, here: Settings, database_url: str
) -> None:
    place = await begun(member, len(ROW), dataset="owls", filename="owls.jsonl")
    part = here.folder("uploads") / f"{place.rpartition('/')[2]}.part"
    part.write_bytes(ROW)
    operation = operations.begin(session, store.upload("owls", "owls.jsonl", Received(part, "0" * 64, len(ROW))))
    session.commit()
    with engine_once(database_url) as engine:
        await asyncio.to_thread(operations.run_operation, engine, here, operation.id)
    told = await member.head(place)
    assert (told.status_code, told.headers["location"]) == (200, f"/api/v1/operations/{operation.id}")
    assert (await send(member, place, len(ROW), b"")).headers["location"] == told.headers["location"]
    assert [path.suffix for path in part.parent.iterdir()] == [".became"]


async def test_calling_off_comes_too_late_for_a_file_whose_last_piece_has_come(
    member: httpx.AsyncClient, session: Session
) -> None:
    place = await begun(member, len(ROW), dataset="owls", filename="owls.jsonl")
    session.execute(text("LOCK TABLE audit IN SHARE MODE"))
    sending = asyncio.create_task(send(member, place, 0, ROW))
    await waiting_for_locks(session, 1)
    assert (await member.delete(place)).status_code == 423
    session.commit()
    sent = await sending
    assert (await member.get(sent.headers["location"])).status_code == 200
    assert (await member.head(place)).headers["location"] == sent.headers["location"]
    assert uploads_said(session) == ["upload.begin"], "what was not done is not told"


async def test_what_flows_is_called_off_before_its_last_piece_can_come(
    member: httpx.AsyncClient, session: Session, here: Settings
) -> None:
    """Nobody is asked meanwhile who might take their time: here whoever knows what is being read."""
    place = await begun(member, len(ROW), dataset="owls", filename="owls.jsonl")
    half, go_on = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield ROW[:10]
        half.set()
        await go_on.wait()
        yield ROW[10:]

    sending = asyncio.create_task(member.patch(place, content=pieces(), headers=PIECE | {"upload-offset": "0"}))
    await half.wait()
    session.execute(text("LOCK TABLE operations IN ACCESS EXCLUSIVE MODE"))
    async with asyncio.timeout(20):
        assert (await member.delete(place)).status_code == 204
    session.commit()
    go_on.set()
    assert (await sending).status_code == 404
    assert list(here.folder("uploads").iterdir()) == []
    assert (await member.get("/api/v1/datasets")).json() == []
    assert uploads_said(session) == ["upload.begin", "upload.discard"]


def uploads_said(session: Session) -> list[str]:
    """What people did with uploads, in the order of time."""
    said = select(Audit.action).where(Audit.action.startswith("upload.")).order_by(Audit.at)
    return list(session.scalars(said))


async def waiting_for_locks(session: Session, count: int) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'audit'::regclass")
    async with asyncio.timeout(30):
        while session.scalar(waiting) != count:
            await asyncio.sleep(0.02)


async def test_an_upload_of_whose_beginning_nobody_could_be_told_is_none(
    app: FastAPI, session: Session, here: Settings
) -> None:
    someone = account(session, Role.MEMBER)
    session.execute(text("ALTER TABLE audit RENAME TO elsewhere"))
    session.commit()
    async with client_of(app, someone.headers) as client:
        refused = await client.post("/api/v1/uploads", headers={"upload-length": "9"} | metadata(dataset="owls"))
    assert refused.status_code == 500
    assert list(here.folder("uploads").iterdir()) == []


async def test_a_list_looks_at_nothing_of_uploads_that_became_something(
    member: httpx.AsyncClient, here: Settings
) -> None:
    for _ in range(3):
        await send_whole(member, ROW)
    assert [path.suffix for path in here.folder("uploads").iterdir()] == [".became"] * 3
    assert list(here.folder("uploads").glob("*.json")) == []
    assert (await member.get("/api/v1/uploads")).json() == []


async def test_no_count_is_told_where_none_can_be(member: httpx.AsyncClient) -> None:
    place = await begun(member, 10**6, dataset="owls", filename="a.json")
    assert "upload-rows" not in (await send(member, place, 0, b"[" + b'{"text": "a"},' * 900)).headers


async def test_unfinished_uploads_are_listed_to_their_owner_alone(
    member: httpx.AsyncClient, app: FastAPI, session: Session
) -> None:
    assert (await member.get("/api/v1/uploads")).json() == []
    place = await begun(member, 500, dataset="owls", filename="owls.jsonl", modified="17", head="cafe")
    await send(member, place, 0, ROW)
    (listed,) = (await member.get("/api/v1/uploads")).json()
    assert place.endswith(listed["id"])
    known = {key: listed[key] for key in ("dataset", "filename", "length", "offset", "modified", "head")}
    assert known == {
        "dataset": "owls",
        "filename": "owls.jsonl",
        "length": 500,
        "offset": len(ROW),
        "modified": "17",
        "head": "cafe",
    }
    page = (await member.get("/datasets")).text
    assert f'data-unfinished="{listed["id"]}"' in page
    async with client_of(app, account(session, Role.ADMIN).headers) as other:
        assert (await other.get("/api/v1/uploads")).json() == []
        assert (await other.delete(place)).status_code == 404
    assert (await member.delete(place)).status_code == 204
    assert (await member.get("/api/v1/uploads")).json() == []


async def test_the_list_is_searched_narrowed_and_sorted_by_its_address(member: httpx.AsyncClient) -> None:
    await member.put("/api/v1/datasets/owls", content=ROW * 2 + ROW.replace(b"owl", b"cat"))
    await member.put("/api/v1/datasets/stories", content=b'{"text": "Once."}\n' * 9)
    names = [each["name"] for each in (await member.get("/api/v1/datasets?sort=rows")).json()]
    assert names == ["stories", "owls"]
    for query in ("q=OWL", "q=instruction", "format=alpaca", "name=owls", "sort=name&limit=1"):
        assert [each["name"] for each in (await member.get(f"/api/v1/datasets?{query}")).json()] == ["owls"], query
    assert (await member.get("/api/v1/datasets?sort=luck")).status_code == 422
    page = (await member.get("/datasets?q=instruction&shape=alpaca&sort=rows")).text
    assert '/datasets/owls"' in page
    assert '/datasets/stories"' not in page
    assert "1 row repeats" in page
    assert "No data set is called so" in (await member.get("/datasets?q=nothing")).text


async def test_a_list_says_how_many_runs_learned_from_each(member: httpx.AsyncClient, session: Session) -> None:
    await member.put("/api/v1/datasets/owls", content=ROW)
    version = session.scalars(select(DatasetVersion)).one()
    run = queued_run(session)
    run.data = [{"name": "owls", "version": 1, "version_id": str(version.id)}] * 2
    session.commit()
    assert [each["runs"] for each in (await member.get("/api/v1/datasets")).json()] == [1]


async def test_a_deleted_data_set_is_listed_and_brought_back(member: httpx.AsyncClient, session: Session) -> None:
    await member.put("/api/v1/datasets/owls", content=ROW)
    dataset = session.scalars(select(DatasetVersion)).one().dataset_id
    await member.post("/datasets/owls/delete")
    assert "owls was deleted" in (await member.get("/datasets?deleted=owls")).text
    assert f"/datasets/{dataset}/restore" in (await member.get("/datasets?removed=1")).text
    assert (await member.post(f"/datasets/{dataset}/restore")).status_code == 303
    assert (await member.get("/api/v1/datasets/owls")).status_code == 200


@pytest.mark.parametrize("example", ["questions", "chats", "stories"])
async def test_an_example_becomes_a_data_set_without_a_flaw(
    member: httpx.AsyncClient, here: Settings, example: str
) -> None:
    assert "Try a small example" in (await member.get("/datasets")).text
    form = {"example": example}
    made = await member.post("/datasets/example", data=form)
    assert made.status_code == 303, made.text
    (listed,) = (await member.get("/api/v1/datasets")).json()
    assert made.headers["location"].endswith(listed["name"].replace(" ", "%20"))
    facts = listed["version"]["facts"]
    assert (facts["skipped"], facts["duplicates"], facts["rows"] >= 90) == (0, 0, True)
    assert (await member.post("/datasets/example", data=form)).status_code == 303
    assert list(here.folder("uploads").iterdir()) == []
    assert (await member.get("/api/v1/datasets")).json()[0]["versions"] == 1
    assert (await member.post("/datasets/example", data={"example": "none"})).status_code == 404


@pytest.mark.parametrize(
    "begun", ["PUT /api/v1/datasets/owls?filename=a.jsonl", "POST /api/v1/datasets/probe?filename=a.jsonl&size=10"]
)
def test_a_file_that_stands_still_is_given_up_and_leaves_nothing(
    begun: str, served: str, here: Settings, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "IDLE_SECONDS", 0.5)
    place = served.removeprefix("http://")
    headers = account(session, Role.MEMBER).headers | {"host": place, "origin": served, "content-length": "1000"}
    head = "\r\n".join([f"{begun} HTTP/1.1", *map(": ".join, headers.items()), "", "half"])
    with socket.create_connection(("127.0.0.1", int(place.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(head.encode())
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    wait_until(lambda: not list(here.folder("uploads").iterdir()), seconds=5)
