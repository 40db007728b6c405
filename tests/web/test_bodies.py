"""Bodies as the server hands them on: just as its own protocol does, whatever pieces they come in."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from backend.web.bodies import Straight

BODY = os.urandom(700_000)


async def digest(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the hash of the body; `/refused` answers without it, `/slow` reads it after a while."""
    hashed, has_more = hashlib.sha256(), scope["path"] != "/refused"
    await asyncio.sleep(0.2 if scope["path"] == "/slow" else 0)
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        hashed.update(message["body"])
        has_more = message["more_body"]
    headers = [(b"content-length", b"64")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": hashed.hexdigest().encode()})


@asynccontextmanager
async def served(protocol: type[H11Protocol], application: ASGIApp = digest) -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(application, http=protocol, port=0, lifespan="off", log_level="critical"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def answered(port: int, pieces: list[bytes], answers: int) -> list[str]:
    """So many answers to what is sent in these pieces over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.001)  # so that each arrives by itself
    told = []
    for _ in range(answers):
        head = await reader.readuntil(b"\r\n\r\n")
        told.append((await reader.readexactly(64)).decode() if b" 200 " in head else head.split(b"\r\n")[0].decode())
    writer.close()
    return told


def put(body: bytes, path: str = "/", *extra: str) -> bytes:
    lines = [f"PUT {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *extra]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes) -> bytes:
    head = b"PUT / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def cut(sent: bytes, seed: int) -> list[bytes]:
    """In pieces of any size, some of a single byte."""
    chance, at = random.Random(seed), 0
    pieces = []
    while at < len(sent):
        size = chance.choice([1, 70, 5_000, 66_000, 250_000])
        pieces.append(sent[at : at + size])
        at += size
    return pieces


SENT = {
    "in a row": (put(BODY) + put(b"") + put(BODY[:99]), 3),
    "read late": (put(BODY[:66_000], "/slow") + put(BODY, "/slow"), 2),
    "refused": (put(BODY, "/refused") + put(BODY[:10]), 2),
    "expected": (put(BODY, "/", "Expect: 100-continue"), 2),
    "chunked": (chunked(BODY) + put(BODY[1:]), 2),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("what", SENT)
async def test_whatever_is_sent_is_answered_as_by_the_servers_own_protocol(what: str, seed: int) -> None:
    sent, answers = SENT[what]
    said = []
    for protocol in (H11Protocol, Straight):
        async with served(protocol) as port:
            said.append(await answered(port, cut(sent, seed), answers))
    assert said[0] == said[1]


async def test_a_large_body_goes_past_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = 0
    through = H11Protocol.data_received

    def counted(self: H11Protocol, data: bytes) -> None:
        nonlocal parsed
        parsed += len(data)
        through(self, data)

    monkeypatch.setattr(H11Protocol, "data_received", counted)
    sent = put(BODY)
    async with served(Straight) as port:
        pieces = [sent[at : at + 50_000] for at in range(0, len(sent), 50_000)]
        assert await answered(port, pieces, 1) == [hashlib.sha256(BODY).hexdigest()]
    assert parsed < len(BODY) / 2


async def test_a_connection_that_is_cut_inside_of_a_body_is_told_to_whoever_receives_it() -> None:
    heard = asyncio.Event()

    async def wait_for_the_end(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        heard.set()

    async with served(Straight, wait_for_the_end) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(put(BODY)[:-1])
        await writer.drain()
        writer.close()
        await asyncio.wait_for(heard.wait(), 10)
