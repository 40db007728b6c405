"""Bodies as they are handed on: whole, in any pieces, past the parser where they are large, and never a byte of what follows."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from backend.core import uploads
from backend.web import bodies
from backend.web.bodies import Line, body_of, ends_the_connection
from backend.web.shapes.common import ErrorOut
from tests.support.links import Link

BODY = os.urandom(700_000)


@pytest.fixture(autouse=True)
def most_bodies_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LARGE_BYTES", 100_000)


class Refused(Exception):
    """The application wants no more of a body."""


async def digest(scope: Scope, receive: Receive, send: Send, room: int = 70_001) -> None:
    """Answers with the hash of the body; `/refused` stops in the midst of it, `/slow` reads it after a while."""
    answer, hashed, block = partial(reply, scope, send), hashlib.sha256(), memoryview(bytearray(room))
    await asyncio.sleep(0.2 if scope["path"] == "/slow" else 0)
    try:
        async with body_of(Request(scope, receive)) as body:
            while count := await body.fill(block):
                hashed.update(block[:count])
                if scope["path"] == "/refused":
                    raise Refused
    except Refused:
        await answer(b"refused".ljust(64))
    else:
        await answer(hashed.hexdigest().encode())


async def reply(scope: Scope, send: Send, words: bytes) -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"64")]}
    if ends_the_connection(scope):
        MutableHeaders(scope=start)["Connection"] = "close"
    await send(start)
    await send({"type": "http.response.body", "body": words})


@asynccontextmanager
async def served(application: ASGIApp = digest) -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(application, http=Line, port=0, lifespan="off", log_level="critical"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def told(port: int, pieces: list[bytes]) -> list[str]:
    """All answers to what is sent in these pieces over one connection, which the other side ends or is left alone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.001)  # so that each arrives by itself
    answers = []
    while head := await asyncio.wait_for(reader.readline(), 10):
        assert b" 200 " in head, head
        headers = await reader.readuntil(b"\r\n\r\n")
        answers.append((await reader.readexactly(64)).decode().strip())
        if b"close" not in headers.lower() and len(answers) == len(pieces):
            break
    writer.close()
    return answers


def put(body: bytes, path: str = "/", *extra: str) -> bytes:
    lines = [f"PUT {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *extra]
    return "\r\n".join([*lines, "", ""]).encode() + body


def cut(sent: bytes, seed: int) -> list[bytes]:
    """In pieces of any size, some of a single byte."""
    chance, at = random.Random(seed), 0
    pieces = []
    while at < len(sent):
        size = chance.choice([1, 70, 5_000, 66_000, 250_000])
        pieces.append(sent[at : at + size])
        at += size
    return pieces


TOO_LONG = b"GET / HTTP/1.1\r\nHost: here\r\nX-Run: " + b"a" * 70_000


@pytest.mark.parametrize("head", [TOO_LONG, b"what?\r\n\r\n"])
async def test_what_is_no_request_or_too_long_for_one_is_refused_as_all_else_is(head: bytes) -> None:
    """However much of it is still to come."""
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        status, _, rest = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n")
        writer.close()
    headers, _, body = rest.partition(b"\r\n\r\n")
    assert status == b"HTTP/1.1 400 Bad Request"
    assert b"content-type: application/json" in headers
    assert ErrorOut.model_validate_json(body).error.code == "bad_request"


async def test_a_head_of_almost_64_kib_is_taken_in_pieces_too() -> None:
    head = (
        b"PUT / HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\nX-Run: "
        + b"a" * 65_000
        + b"\r\nConnection: close\r\n\r\n"
    )
    async with served() as port:
        (answer,) = await told(port, [head[:20_000], head[20_000:40_000], head[40_000:]])
    assert answer == hashlib.sha256().hexdigest()


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHo", put(b"") + b"GET / HT"])
async def test_a_connection_over_which_the_head_of_a_request_never_ends_is_given_up(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "IDLE_SECONDS", 0.2)
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        with suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()


async def test_a_body_that_nobody_wanted_does_not_keep_its_connection_behind_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def deaf(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 -- it reads no body
        await reply(scope, send, b"done".ljust(64))

    monkeypatch.setattr(bodies, "IDLE_SECONDS", 0.2)
    async with served(deaf) as port:
        with suppress(ConnectionResetError):
            await all_of(port, put(BODY)[:100], until=b"done".ljust(64), then=BODY[:1])


async def test_an_answer_that_is_read_slowly_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = os.urandom(24 << 20)

    async def at_once(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 -- it reads no body
        headers = [(b"content-length", f"{len(answer)}".encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    monkeypatch.setattr(bodies, "IDLE_SECONDS", 0.5)
    came = b""
    async with served(at_once) as port:
        with socket.socket() as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            own.connect(("127.0.0.1", port))
            own.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(own, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            while piece := await loop.sock_recv(own, 1 << 17):
                came += piece
                await asyncio.sleep(0.012)
    assert came.endswith(answer[-1000:])


async def test_an_answer_may_take_as_long_as_it_takes_and_the_next_request_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.6)
        await digest(scope, receive, send)

    monkeypatch.setattr(bodies, "IDLE_SECONDS", 0.2)
    async with served(late) as port:
        assert await told(port, [put(b""), put(b"")]) == [hashlib.sha256().hexdigest()] * 2


async def all_of(port: int, sent: bytes, *, until: bytes, then: bytes) -> bytes:
    """Everything that is answered to what is sent, and to what is sent as soon as `until` was answered, until the other side
    ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    came = await asyncio.wait_for(reader.readuntil(until), 10)
    writer.write(then)
    came += await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return came


CHUNKED = b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN_CHUNK = b"what?\r\n\r\n"


async def test_behind_an_answer_that_came_early_nothing_more_is_answered() -> None:
    async def at_once(scope: Scope, _receive: Receive, send: Send) -> None:
        await reply(scope, send, b"refused".ljust(64))

    async with served(at_once) as port:
        came = await all_of(port, CHUNKED, until=b"refused".ljust(64), then=BROKEN_CHUNK)
    assert came.count(b"HTTP/1.1 ") == 1
    assert came.endswith(b"refused".ljust(64))


async def test_into_an_answer_that_has_begun_nothing_is_written() -> None:
    async def for_long(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with served(for_long) as port:
        came = await all_of(port, CHUNKED, until=b"begun", then=BROKEN_CHUNK)
    assert came.count(b"HTTP/1.1 ") == 1
    assert came.endswith(b"begun")


async def test_what_is_no_request_is_refused_behind_one_that_was_answered_too() -> None:
    async with served() as port:
        came = await all_of(port, put(b""), until=hashlib.sha256().hexdigest().encode(), then=BROKEN_CHUNK)
    assert [came.count(status) for status in (b"HTTP/1.1 200 ", b"HTTP/1.1 400 ")] == [1, 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("path", ["/", "/slow"])
async def test_a_large_body_arrives_whole_however_it_comes_in_pieces_and_ends_its_connection(
    path: str, seed: int
) -> None:
    async with served() as port:
        assert await told(port, cut(put(BODY, path), seed)) == [hashlib.sha256(BODY).hexdigest()]


async def test_small_bodies_and_those_without_a_length_share_their_connection() -> None:
    chunked = b"PUT / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    sent = [put(BODY[:99]), chunked % (len(BODY), BODY), put(b"")]
    async with served() as port:
        assert await told(port, sent) == [hashlib.sha256(each).hexdigest() for each in (BODY[:99], BODY, b"")]


async def test_who_is_refused_in_the_midst_of_a_body_still_hears_why() -> None:
    async with served() as port:
        assert await told(port, cut(put(BODY * 9, "/refused"), 1)) == ["refused"]


async def test_a_large_body_goes_past_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = 0
    through = H11Protocol.data_received

    def counted(self: H11Protocol, data: bytes) -> None:
        nonlocal parsed
        parsed += len(data)
        through(self, data)

    monkeypatch.setattr(H11Protocol, "data_received", counted)
    sent = put(BODY)
    async with served() as port:
        await told(port, [sent[at : at + 50_000] for at in range(0, len(sent), 50_000)])
    assert parsed < len(BODY) / 2


async def heard(sent: bytes) -> tuple[int, bool]:
    """How many bytes of a body are handed on of what is sent before the connection is cut, and whether they end in a break."""
    told: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()

    async def count(scope: Scope, receive: Receive, _send: Send) -> None:
        total, block = 0, memoryview(bytearray(1 << 20))
        try:
            async with body_of(Request(scope, receive)) as body:
                while come := await body.fill(block):
                    total += come
        except ClientDisconnect:
            told.set_result((total, True))
        else:
            told.set_result((total, False))

    async with served(count) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await writer.drain()
        writer.close()
        return await asyncio.wait_for(told, 10)


async def test_what_came_before_a_large_body_was_cut_is_handed_on_before_the_break() -> None:
    assert await heard(put(BODY)[:-1]) == (len(BODY) - 1, True)


async def test_nothing_behind_a_large_body_is_taken_for_a_part_of_it() -> None:
    assert await heard(put(BODY) + put(b"another request")) == (len(BODY), False)


@pytest.mark.parametrize("length", [90_000, 700_000], ids=["through the parser", "past it"])
async def test_an_upload_whose_client_has_vanished_is_let_go_and_gone_on_with(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "IDLE_SECONDS", 0.5)
    upload, begun = uploads.create(tmp_path, length, {}, "somebody", length), asyncio.Event()
    ends: asyncio.Queue[uploads.Session | ClientDisconnect] = asyncio.Queue()

    async def append(scope: Scope, receive: Receive, send: Send) -> None:
        offset = uploads.session(tmp_path, upload.id).offset
        begun.set()
        try:
            async with body_of(Request(scope, receive)) as body:
                ends.put_nowait(await uploads.append(tmp_path, upload.id, offset, body))
        except ClientDisconnect as error:
            ends.put_nowait(error)
        await reply(scope, send, b"heard".ljust(64))

    async with served(append) as port:
        link = Link(f"http://127.0.0.1:{port}")
        _, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(put(BODY[:length])[:-1])
        await begun.wait()
        link.half_open()
        assert isinstance(await asyncio.wait_for(ends.get(), 10), ClientDisconnect)
        offset = uploads.session(tmp_path, upload.id).offset
        assert await told(port, [put(BODY[offset:length])]) == ["heard"]
        assert (await ends.get()).is_complete  # type: ignore[union-attr]
        writer.close()
        await asyncio.to_thread(link.close)
    received = uploads.received(tmp_path, uploads.session(tmp_path, upload.id))
    assert received.sha256 == hashlib.sha256(BODY[:length]).hexdigest()


async def test_a_slow_client_is_not_taken_for_one_that_has_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "IDLE_SECONDS", 0.3)

    async def slowly(port: int, sent: bytes) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for at in range(0, len(sent), len(sent) // 6 + 1):
            writer.write(sent[at : at + len(sent) // 6 + 1])
            await asyncio.sleep(0.1)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert b" 200 " in answer
        digest = (await reader.readexactly(64)).decode()
        writer.close()
        return digest

    async with served() as port:
        found = [*await asyncio.gather(slowly(port, put(BODY)), slowly(port, put(BODY[:90_000])))]
    assert found == [hashlib.sha256(each).hexdigest() for each in (BODY, BODY[:90_000])]
