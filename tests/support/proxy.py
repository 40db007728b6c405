"""A network between a browser and a studio that can fail: cut, silent, or cut by itself after so many bytes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")
STREAM = b"GET /api/v1/events"


class Proxy:
    """Passes bytes on until it is told otherwise. `streams` counts the connections that carry an event stream now."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open: dict[asyncio.StreamWriter, bool] = {}
        self._flows = asyncio.Event()
        self._flows.set()
        self._port = 0
        self._bytes_left: float = float("inf")
        self.sent_bytes = 0
        self._server: asyncio.Server | None = None
        self.restore()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def streams(self) -> int:
        return sum(self._open.values())

    def cut(self) -> None:
        """Every connection breaks, and no new one is taken."""
        self._do(self._cut())

    def fall_silent(self) -> None:
        """Connections stand and new ones are taken, but nothing arrives: packets are lost on the way."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def cut_after(self, count: int) -> None:
        """Cut when the browser has sent so many bytes more."""
        self._bytes_left = count

    def restore(self) -> None:
        """The network is back; what stood in a silence goes on."""
        self._bytes_left = float("inf")
        self._do(self._restore())

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _restore(self) -> None:
        self._flows.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        self._flows.set()
        if self._server:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = False
        try:
            with suppress(OSError):
                studio, to_studio = await asyncio.open_connection(self._target.hostname, self._target.port)
                there = asyncio.create_task(self._pass(reader, to_studio, writer))
                back = asyncio.create_task(self._pass(studio, writer, None))
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                for each in (there, back):
                    each.cancel()
                to_studio.transport.abort()
        finally:
            del self._open[writer]
            writer.transport.abort()

    async def _pass(
        self, source: asyncio.StreamReader, to: asyncio.StreamWriter, browser: asyncio.StreamWriter | None
    ) -> None:
        """`browser` is given on the way there, where requests are looked at and bytes are counted."""
        with suppress(OSError):
            while data := await source.read(1 << 16):
                await self._flows.wait()
                if browser:
                    self._open[browser] = data.startswith(STREAM)
                    await self._count(len(data))
                to.write(data)
                await to.drain()

    async def _count(self, count: int) -> None:
        self.sent_bytes += count
        self._bytes_left -= count
        if self._bytes_left < 0:
            await self._cut()


@contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    yield proxy
    proxy.close()
