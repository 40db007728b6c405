"""A network between two parts that can fail: cut, reset, silent, slow, or half-open."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")
PIECE_BYTES = 1 << 16
NO_LINGER = struct.pack("ii", 1, 0)
"""A socket that is closed with this sends RST, as the kernel of a peer does that knows nothing of a connection."""


@dataclass(eq=False)
class Connection:
    """One connection as the near part opened it. What is sent over a deaf one is lost, and neither end learns of it."""

    near: asyncio.StreamWriter
    is_deaf: bool = False

    def abort(self, *, with_reset: bool = False) -> None:
        opened = self.near.get_extra_info("socket")
        if with_reset and opened is not None:
            with suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.near.transport.abort()


class Link:
    """Passes bytes on until it is told otherwise. `target` is a URL, or the path of a unix socket."""

    def __init__(self, target: str | Path) -> None:
        self._target = target
        self._connections: set[Connection] = set()
        self._port = 0
        self._lag_seconds = 0.0
        self._is_half_open = False
        self._server: asyncio.Server | None = None
        self._flows, self._healed = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.restore()

    @property
    def port(self) -> int:
        return self._port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """Every connection breaks, and no new one is taken."""
        self._do(self._cut())

    def reset(self) -> None:
        """Every connection breaks by RST; new ones are taken."""
        self._do(self._reset())

    def fall_silent(self) -> None:
        """Connections stand and new ones are taken, but nothing arrives: packets are lost on the way."""
        self._do(self._fall_silent())

    def slow_down(self, seconds: float) -> None:
        """Whatever is sent arrives so much later."""
        self._lag_seconds = seconds

    def half_open(self) -> None:
        """What is sent from now on is lost for good, while both ends believe in their connections.

        At `restore` the ends learn of it by RST, as from a peer that was started anew.
        """
        self._do(self._half_open())

    def restore(self) -> None:
        """The network is back; what stood in a silence goes on."""
        self._lag_seconds = 0.0
        self._do(self._restore())

    def close(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _restore(self) -> None:
        self._is_half_open = False
        self._flows.set()
        self._healed.set()
        for connection in [each for each in self._connections if each.is_deaf]:
            connection.abort(with_reset=True)
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        self._flows.set()
        self._healed.set()
        if self._server:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.abort()

    async def _close(self) -> None:
        await self._cut()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        if serving:
            await asyncio.wait(serving, timeout=5)

    async def _reset(self) -> None:
        for connection in list(self._connections):
            connection.abort(with_reset=True)

    async def _fall_silent(self) -> None:
        self._flows.clear()

    async def _half_open(self) -> None:
        self._is_half_open = True
        self._healed.clear()
        for connection in self._connections:
            connection.is_deaf = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(writer, self._is_half_open)
        self._connections.add(connection)
        try:
            with suppress(OSError):
                await self._connect(connection, reader)
        finally:
            self._connections.discard(connection)
            self._over(connection)
            writer.transport.abort()

    async def _connect(self, connection: Connection, reader: asyncio.StreamReader) -> None:
        far, to_far = await self._open()
        there = asyncio.create_task(self._pass(connection, reader, to_far, is_there=True))
        back = asyncio.create_task(self._pass(connection, far, connection.near, is_there=False))
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for each in (there, back):
            each.cancel()
        await asyncio.gather(there, back, return_exceptions=True)
        to_far.transport.abort()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        parts = urlsplit(self._target)
        return await asyncio.open_connection(parts.hostname, parts.port)

    async def _pass(
        self, connection: Connection, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, is_there: bool
    ) -> None:
        with suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                await self._flows.wait()
                if self._lag_seconds:
                    await asyncio.sleep(self._lag_seconds)
                if connection.is_deaf:
                    continue
                if is_there:
                    await self._look(connection, data)
                to.write(data)
                await to.drain()
        if connection.is_deaf:  # that one end left is lost on the way, too
            await self._healed.wait()

    async def _look(self, connection: Connection, data: bytes) -> None:
        """Called with what is about to be passed to the far part."""

    def _over(self, connection: Connection) -> None:
        """Called when a connection is gone."""
