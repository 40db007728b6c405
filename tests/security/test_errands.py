"""What the studio can be made to fetch, and from whom: the hub alone, and not for longer than one waits.

Gradio CVE-2024-47167 and CVE-2026-28416, vLLM CVE-2026-24779 and CVE-2026-25960, Open WebUI CVE-2026-45401, Label Studio
CVE-2023-47116, MLflow CVE-2026-64849 (redirects, and names that come to mean another address), h2o-3 CVE-2024-8062.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from backend.core import hub
from backend.core.errors import Unavailable
from tests.security.world import RECIPE, World
from tests.support.hub import Shelf, hub_in_place

Serve = Callable[[socket.socket], None]


@contextmanager
def listening(serve: Serve) -> Iterator[tuple[str, list[str]]]:
    """An address, and who connected to it; each connection is served in a thread of its own."""
    came: list[str] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def accept() -> None:
            with suppress(OSError):  # the end of the test
                while True:
                    connection, peer = server.accept()
                    came.append(f"{peer}")
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", came
        server.shutdown(socket.SHUT_RDWR)


def test_nothing_is_fetched_from_an_address_that_a_person_names(world: World) -> None:
    with listening(lambda connection: connection.close()) as (address, came), world.client("owner") as client:
        for named in (f"{address}/owls/far", f"{address}", address.removeprefix("http:"), "file:///etc/passwd"):
            for path, words in (
                ("/api/v1/models/search", {"q": named}),
                ("/api/v1/models/inspect", {"path": named}),
                ("/models", {"q": named}),
            ):
                assert client.get(path, params=words).status_code < 500, (path, named)
            for path, body in (
                ("/api/v1/models/download", {"id": named}),
                ("/api/v1/preflight", RECIPE | {"model": named}),
                ("/api/v1/runs", RECIPE | {"model": named}),
            ):
                assert 400 <= client.post(path, json=body).status_code < 500, (path, named)
        assert came == []


@pytest.fixture
def shelf(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    with hub_in_place(Shelf({"owls/far": tiny_base}), tmp_path, monkeypatch) as shelf:
        yield shelf


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "file"])
def test_a_hub_that_sends_elsewhere_is_not_followed(shelf: Shelf, scheme: str) -> None:
    """Hosts are compared by name, so that a name that comes to mean another address is another host as well."""
    port = hub.endpoint().rpartition(":")[2]
    for host in ("169.254.169.254", f"localhost:{port}", f"127.0.0.1:{port}@evil.test", "[::ffff:169.254.169.254]"):
        shelf.redirects["/api/models/owls/far"] = f"{scheme}://{host}/latest/meta-data"
        with pytest.raises(Unavailable, match="cannot be reached"):
            hub.look("owls/far")


def silent(connection: socket.socket) -> None:
    """Takes everything and says nothing, until the other side leaves."""
    with suppress(OSError):
        while connection.recv(65536):
            pass


def dripping(connection: socket.socket) -> None:
    """A header that never ends, a byte at a time: no single wait is long."""
    with suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize("serve", [silent, dripping])
def test_a_hub_that_answers_never_or_in_drops_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 1.0)
    with listening(serve) as (address, came):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            hub.look("owls/far")
        assert len(came) == 1
        assert time.monotonic() - began < 20
