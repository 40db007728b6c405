"""A network between a browser and a studio: it counts streams and bytes, and can cut itself after so many of these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.links import Connection, Link

STREAM = b"GET /api/v1/events"


class Proxy(Link):
    """`streams` counts the connections that carry an event stream now."""

    def __init__(self, target: str) -> None:
        self._streams: set[Connection] = set()
        self._bytes_left: float = float("inf")
        self.sent_bytes = 0
        super().__init__(target)

    @property
    def streams(self) -> int:
        return len(self._streams)

    def cut_after(self, count: int) -> None:
        """Cut when the browser has sent so many bytes more."""
        self._bytes_left = count

    def restore(self) -> None:
        self._bytes_left = float("inf")
        super().restore()

    async def _look(self, connection: Connection, data: bytes) -> None:
        (self._streams.add if data.startswith(STREAM) else self._streams.discard)(connection)
        self.sent_bytes += len(data)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            await self._cut()

    def _over(self, connection: Connection) -> None:
        self._streams.discard(connection)


@contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    yield proxy
    proxy.close()
