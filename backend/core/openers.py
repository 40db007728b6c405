"""HTTP to somebody who may be slow on purpose, or send us elsewhere: one deadline for all of it, and no redirect unseen."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from threading import Timer
from typing import Any
from urllib.request import HTTPErrorProcessor, HTTPHandler, HTTPSHandler, OpenerDirector, build_opener

from backend.core.reach import Reach


@contextmanager
def opener_until(deadline: float, reach: Reach) -> Iterator[OpenerDirector]:
    """An opener that connects to nobody but whom `reach` allows, and whose connections are cut at `deadline` (of the
    monotonic clock), whatever they are at: a time limit holds for each single read, and headers that come in drops would
    be waited for without end. It hands over every status as it is."""
    line = _Line(deadline, reach)
    timer = Timer(max(0.0, deadline - time.monotonic()), line.cut)
    timer.daemon = True
    timer.start()
    try:
        yield build_opener(_AsItIs, _Plain(line), _Secure(line))
    finally:
        timer.cancel()


@dataclass
class _Line:
    """Every connection of one opener."""

    deadline: float
    reach: Reach
    connected: list[socket.socket] = field(default_factory=list)

    def took(self, connection: socket.socket) -> None:
        self.connected.append(connection)
        if time.monotonic() >= self.deadline:  # it took so long to connect that the others were cut already
            self.cut()

    def cut(self) -> None:
        for each in self.connected:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _AsItIs(HTTPErrorProcessor):
    def http_response(self, request: Any, response: Any) -> Any:  # noqa: ARG002 -- the base's signature
        return response

    https_response = http_response


class _Plain(HTTPHandler):
    def __init__(self, line: _Line) -> None:
        super().__init__()
        self.line = line

    def http_open(self, req: Any) -> Any:
        return self.do_open(_told_to(HTTPConnection, self.line, req), req)


class _Secure(HTTPSHandler):
    def __init__(self, line: _Line) -> None:
        super().__init__()
        self.line = line

    def https_open(self, req: Any) -> Any:
        return self.do_open(_told_to(HTTPSConnection, self.line, req), req)


def _told_to(kind: type[HTTPConnection], line: _Line, request: Any) -> Any:
    """A kind of connection that reaches only whom it may, and tells its socket once it has one. A proxy that the environment
    names may be reached by what goes through it."""
    goes_through_a_proxy = request.has_proxy() or request._tunnel_host
    connect = socket.create_connection if goes_through_a_proxy else line.reach.connect

    class Told(kind):  # type: ignore[misc,valid-type]
        def connect(self) -> None:
            self._create_connection = connect
            super().connect()
            line.took(self.sock)

    return Told
