"""The troubles of a network are those that programs meet."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.links import Link


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _serve(server: socket.socket) -> None:
    while True:
        try:
            opened, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(opened,), daemon=True).start()


def _echo(opened: socket.socket) -> None:
    with opened:
        while data := opened.recv(1024):
            opened.sendall(data)


@pytest.fixture
def link(echo: str) -> Iterator[Link]:
    link = Link(echo)
    yield link
    link.close()


@pytest.fixture
def near(link: Link) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", link.port), timeout=10) as opened:
        assert said(opened, b"before") == b"before"
        yield opened


def said(opened: socket.socket, words: bytes) -> bytes:
    opened.sendall(words)
    return opened.recv(1024)


def test_a_cut_ends_connections_and_takes_none_until_it_is_mended(link: Link, near: socket.socket) -> None:
    link.cut()
    assert near.recv(1) == b""
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", link.port), timeout=10)
    link.restore()
    with socket.create_connection(("127.0.0.1", link.port), timeout=10) as again:
        assert said(again, b"again") == b"again"


def test_a_reset_is_told_as_one(link: Link, near: socket.socket) -> None:
    link.reset()
    with pytest.raises(ConnectionResetError):
        near.recv(1)


def test_what_stands_in_a_silence_arrives_when_it_is_over(link: Link, near: socket.socket) -> None:
    link.fall_silent()
    near.sendall(b"late")
    near.settimeout(0.2)
    with pytest.raises(TimeoutError):
        near.recv(1024)
    link.restore()
    near.settimeout(10)
    assert near.recv(1024) == b"late"


def test_what_is_sent_over_a_half_open_connection_is_lost_and_told_when_it_is_over(
    link: Link, near: socket.socket
) -> None:
    link.half_open()
    near.sendall(b"lost")
    near.settimeout(0.2)
    with pytest.raises(TimeoutError):
        near.recv(1024)
    link.restore()
    near.settimeout(10)
    with pytest.raises(ConnectionResetError):
        near.recv(1024)
