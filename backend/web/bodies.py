"""How the body of a large file comes in: past the server's parser of requests, right into the memory of whoever stores it.

A parser has nothing to do inside of a body whose length was announced, but copies each byte several times on its way. So it sees
the head of the request and what came along with it; the rest is read by `Straight`, which asyncio lets stand in for the
server's protocol. The parser is never told, so it still waits for that body, and the connection ends with the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import h11
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from backend.core.errors import BadRequest
from backend.core.uploads import Body, Chunks

LINE = "line"
LARGE_BYTES = 32 << 20
"""From here on a body is worth its connection: to open the next one costs a few times the way there and back."""
LINGER_SECONDS = 1.0
"""Who is refused still sends: a connection that ended at once would take the answer with it."""
DISCARD_BYTES = 1 << 16
IDLE_SECONDS = 45.0
"""Who sends nothing for so long has left without a word, as a computer that was closed: its connection would stand for good, and
its upload be locked. Behind a proxy, no probe of the system finds that out. A page asks for the lock somewhat longer."""
HEAD_BYTES = 64 << 10
"""Of a request before its body, as far as it comes in pieces."""


class Line(H11Protocol):
    """A connection, which each request finds in its state."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state | {LINE: self}, _loop)
        self.conn = h11.Connection(h11.SERVER, HEAD_BYTES)
        self.ends = False
        """With the next answer."""
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._watch:
            self._watch.cancel()

    def _look_again(self, unread: int = 0) -> None:
        """In a while whether the head of the next request is here, behind what nobody wanted of the last one's body: the server
        itself would wait for both without end. Who still reads of the last answer, of which `unread` bytes were left, may."""
        before = self.cycle

        def look() -> None:
            is_answered = before is None or before.response_complete
            left = self.transport.get_write_buffer_size()
            if is_answered and self.cycle is before and left in (0, unread):
                self.transport.abort()
            else:
                self._look_again(left)

        self._watch = self.loop.call_later(IDLE_SECONDS, look)

    def send_400_response(self, _msg: str) -> None:
        """What no application gets to see is refused in the shape of all refusals; by itself the server would send a line of
        plain text. What goes wrong behind an answer, or while one is under way, has no answer of its own."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(malformed())
        self.transport.close()


def malformed() -> bytes:
    """The whole answer to what the parser makes no request of."""
    refusal = BadRequest(
        "This is no HTTP request, or its address and headers are too long.",
        hint=f"Shorten the address: all of a request before its body has at most {HEAD_BYTES >> 10} KiB.",
    )
    body = json.dumps(refusal.as_json()).encode()
    head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return b"HTTP/1.1 400 Bad Request\r\n" + head.encode() + body


class Straight(asyncio.BufferedProtocol):
    """A body of which `came` is here, and `left` bytes are still to come. None behind them are read."""

    def __init__(self, line: Line, came: bytes, left: int) -> None:
        self._transport, self._line = line.transport, line
        self._came, self._left = memoryview(came), left
        self._room = memoryview(b"")
        self._filled = asyncio.Event()
        self._is_lost = False
        line.ends = True
        self._transport.pause_reading()
        self._transport.set_protocol(self)

    async def fill(self, room: memoryview) -> int:
        came = len(self._came[: len(room)])
        room[:came], self._came = self._came[:came], self._came[came:]
        wanted = self._room = room[came:][: self._left]
        if wanted and not self._is_lost:
            await self._read()
        count = came + len(wanted) - len(self._room)
        if not count and self._left:
            raise ClientDisconnect
        return count

    async def _read(self) -> None:
        """Until there is no room any more, or no connection: one over which nothing comes is given up."""
        self._filled.clear()
        self._transport.resume_reading()
        try:
            while not self._filled.is_set():
                left = self._left
                with suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_SECONDS):
                        await self._filled.wait()
                if self._left == left:
                    self._transport.abort()
        finally:
            self._transport.pause_reading()

    async def discard(self) -> None:
        """What a client that is refused still sends, for a moment."""
        room = memoryview(bytearray(DISCARD_BYTES))
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(LINGER_SECONDS):
                while await self.fill(room):
                    pass

    # ---- asyncio's side ----

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, count: int) -> None:
        self._room, self._left = self._room[count:], self._left - count
        if not self._room:
            self._transport.pause_reading()
            self._filled.set()

    def eof_received(self) -> None:
        self._line.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        self._filled.set()
        self._line.connection_lost(error)

    def pause_writing(self) -> None:
        self._line.pause_writing()

    def resume_writing(self) -> None:
        self._line.resume_writing()


@asynccontextmanager
async def body_of(request: Request) -> AsyncIterator[Body]:
    """The body of a request that nobody has begun to read."""
    line, length = request.scope["state"].get(LINE), announced(request.headers)
    if line is None or length <= LARGE_BYTES:
        yield Chunks(pieces(request))
        return
    message = await request.receive()
    if message["type"] != "http.request":
        raise ClientDisconnect
    # Whatever the parser had is in the message, and before the next await no more can come to it.
    body = Straight(line, message["body"], length - len(message["body"]))
    try:
        yield body
    except Exception:
        await body.discard()
        raise


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """The body of a request that nobody has begun to read, to its end. The next piece is not waited for without end. Raises
    `ClientDisconnect` where the connection breaks off before."""
    stream, line = request.stream(), request.scope["state"].get(LINE)
    try:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                piece = await anext(stream)
            yield piece
    except StopAsyncIteration:
        return
    except TimeoutError:
        if line:
            line.transport.abort()
        raise ClientDisconnect from None


def announced(headers: Headers) -> int:
    """The length of the body; 0 where its head does not tell."""
    length = "" if "transfer-encoding" in headers else headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def ends_the_connection(scope: Scope) -> bool:
    """Whether nothing more can be asked over the connection of this request."""
    line = scope["state"].get(LINE)
    return line is not None and line.ends
