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
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from backend.core import bases, hub
from backend.core.errors import Invalid, Unavailable
from backend.core.openers import opener_until
from backend.core.reach import Inward, reach_of
from tests.security.world import RECIPE, World
from tests.support.hub import COMMIT, Shelf, hub_in_place

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
    """A question stays with the host that was asked, told by its name; what that name means is judged apart, below."""
    port = bases.hub_address().rpartition(":")[2]
    for host in ("169.254.169.254", f"localhost:{port}", f"127.0.0.1:{port}@evil.test", "[::ffff:169.254.169.254]"):
        shelf.redirects["/api/models/owls/far"] = f"{scheme}://{host}/latest/meta-data"
        with pytest.raises(Unavailable, match="cannot be reached"):
            hub.look("owls/far")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "[::ffff:127.0.0.1]", "2130706433"])
def test_a_download_that_is_sent_inward_is_refused(shelf: Shelf, name: str, host: str) -> None:
    """Hubs do keep their files with others, so that a download follows redirects; to this network it does not."""
    with listening(lambda connection: connection.close()) as (address, came):
        place = f"http://{host}:{address.rpartition(':')[2]}/latest/meta-data"
        shelf.redirects[f"/owls/far/resolve/{COMMIT}/{name}"] = place
        with pytest.raises(Unavailable, match="which is inside this network"):
            hub.obtain({"id": "owls/far", "revision": COMMIT, "total": 0})
        assert came == []


@pytest.mark.parametrize("tag", ['"{outside}"', 'W/"{outside}"', '"../../../../outside"', "../outside"])
def test_a_file_lands_nowhere_else_whatever_tag_the_hub_gives_it(shelf: Shelf, tmp_path: Path, tag: str) -> None:
    """The hub's library keeps a file in its cache under its tag."""
    shelf.tags["config.json"] = tag.format(outside=tmp_path / "outside")
    with pytest.raises(Unavailable, match="answer cannot be read"):
        hub.obtain({"id": "owls/far", "revision": COMMIT, "total": 0})
    assert [*tmp_path.rglob("*outside*")] == []


@pytest.mark.parametrize("name", ["../../../../config.json", "/outside/config.json", "..\\config.json"])
def test_a_file_lands_nowhere_else_whatever_name_the_hub_lists(shelf: Shelf, tmp_path: Path, name: str) -> None:
    shelf.listed["config.json"] = name
    with pytest.raises(Unavailable, match="answer cannot be read"):
        hub.obtain({"id": "owls/far", "revision": COMMIT, "total": 0})
    assert [*tmp_path.rglob("config.json")] == []


@pytest.fixture
def rebound(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[str]]:
    """Makes a name mean an address of the internet when it is first looked up, and from then on another one. Returns what
    it was taken for each time."""
    known = socket.getaddrinfo

    def rebind(name: str, later: str) -> list[str]:
        answers: list[str] = []

        def look_up(host: Any, *others: Any, **named: Any) -> Any:
            if host == name:
                answers.append(later if answers else "192.0.43.8")
                host = answers[-1]
            return known(host, *others, **named)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        return answers

    return rebind


ASK: dict[str, Callable[[], object]] = {
    "asked": lambda: hub.look("owls/far"),
    "downloaded-from": lambda: bases.download("owls/far", None),
}


@pytest.mark.parametrize("later", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("way", ASK)
def test_a_hub_whose_name_comes_to_mean_an_address_inside_is_not_connected_to(
    way: str, later: str, rebound: Callable[[str, str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{way}-{later.count(':')}.test"
    answers = rebound(name, later)
    with listening(lambda connection: connection.close()) as (address, came):
        stand_in(monkeypatch, tmp_path, f"http://{name}:{address.rpartition(':')[2]}")
        with pytest.raises(Unavailable):
            ASK[way]()
        assert came == []
    assert answers[1:], "it was looked up again, and then meant this machine"


def stand_in(monkeypatch: pytest.MonkeyPatch, cache: Path, home: str) -> None:
    """Where the hub is said to be."""
    monkeypatch.setenv("HF_ENDPOINT", home)
    monkeypatch.setenv("HF_HOME", str(cache))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("way", ASK)
def test_a_proxy_of_this_network_is_asked_for_what_it_alone_can_find(
    way: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(lambda connection: connection.close()) as (address, came):
        stand_in(monkeypatch, tmp_path, f"{scheme}://nowhere.test")
        monkeypatch.setenv(f"{scheme}_proxy", address)
        with pytest.raises(Unavailable):
            ASK[way]()
        assert came


def test_a_proxy_is_connected_to_for_what_goes_through_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands inside this network: a redirect that names it, where nothing goes through it, names a machine like others."""
    with listening(lambda connection: connection.close()) as (address, came):
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with opener_until(time.monotonic() + 20, reach_of("http://192.0.43.8")) as opener:
            with pytest.raises(OSError, match="inside this network"):
                opener.open(f"{address}/latest/meta-data", timeout=5)
            assert came == []
            with suppress(OSError, HTTPException):
                opener.open("http://nowhere.test/", timeout=5)
            assert len(came) == 1


INSIDE = ("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.100.100.200", "0.0.0.0", "::1", "fe80::1", "fd00:ec2::254",
          "::ffff:10.1.2.3", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "224.0.0.1", "192.168.7.7", "64:ff9b:1::a00:1",
          "::127.0.0.1", "::ffff:0:127.0.0.1", "fec0::1", "5f00::1", "168.63.129.16", "::ffff:168.63.129.16",
          "64:ff9b::a83f:8110")  # fmt: skip
OUTSIDE = ("192.0.43.8", "2606:4700::1111", "::ffff:192.0.43.8", "64:ff9b::c000:2b08")


def reached(home: str) -> set[str]:
    """Which of these addresses a hub there may lead to."""
    reach = reach_of(home)
    found = set()
    for each in (*INSIDE, *OUTSIDE):
        with suppress(Inward):
            found |= {each} if reach.addresses(each, 80) else set()
    return found


def test_a_hub_leads_to_the_internet_and_one_of_a_house_to_that_house_as_well() -> None:
    assert reached("http://192.0.43.8") == {*OUTSIDE}
    assert reached("http://127.0.0.1:80") == {*OUTSIDE, "127.0.0.1"}
    assert reached("http://10.9.9.9") == {*OUTSIDE, "10.1.2.3", "192.168.7.7"}


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


def test_a_download_in_drops_is_given_up_in_words(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large model may well take days, which is its bound; no single wait is long enough to be one."""
    shelf.slow_seconds = 5.0
    monkeypatch.setattr(hub, "DOWNLOAD_SECONDS", 12)
    began = time.monotonic()
    with pytest.raises(Invalid, match="took longer than") as refusal:
        hub.obtain({"id": "owls/far", "revision": COMMIT, "total": 0})
    assert refusal.value.code == "limited.time"
    assert any(path.endswith("model.safetensors") for path in shelf.asked)
    assert time.monotonic() - began < 60
