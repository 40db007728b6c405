"""How bodies come in: the server's own protocol, but for the bytes of a large one, which go straight to whoever receives it."""

from __future__ import annotations

from h11._readers import ContentLengthReader
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import H11Protocol


class Straight(H11Protocol):
    """A parser has nothing to do inside of a body whose length was announced, but copies each byte five times on its way:
    three quarters of the work of receiving a file. Its beginning and its end, and all other bodies, are parsed. The parser has
    no public way to be told what went past it, so its count of what is still to come is set.
    """

    def data_received(self, data: bytes) -> None:
        reader = self.conn._reader
        if not (isinstance(reader, ContentLengthReader) and self._goes_on(reader._remaining - len(data))):
            super().data_received(data)
            return
        reader._remaining -= len(data)
        cycle = self.cycle
        cycle.body = cycle.body + data if cycle.body else data  # type: ignore[assignment]  # what is not joined is not copied
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def _goes_on(self, remaining: int) -> bool:
        """Whether the body has more to come than what is here now, and is still wanted."""
        return remaining > 0 and self.conn.trailing_data == (b"", False) and not self.cycle.response_complete
