"""A request that does not come whole is not carried out: half of a form is another form."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from itertools import chain
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import func, select

from backend.core.models import Audit, Run
from backend.web.security import is_streamed
from tests.security.asking import asked
from tests.security.test_audit import WRITTEN
from tests.security.world import World
from tests.support.processes import wait_until

BY_ANYBODY = {"POST /signin", "POST /setup", "POST /invitation"}
ROUTES = sorted(set(chain.from_iterable(WRITTEN.values())) - BY_ANYBODY)
YAML = b"model: {path: tiny}\ntraining: {max_steps: 200}\n"
BROKEN_CHUNK = b"what?\r\n"


def wholes(world: World, client: httpx.Client) -> Iterator[httpx.Request]:
    """To every route that changes something one request that would succeed."""
    things = world.things("admin")
    for route in ROUTES:
        method, path, words = asked(route, things)
        if not is_streamed(method, path):
            yield client.build_request(method, path, **words)
    note = {"note": ""}
    yield client.build_request("POST", f"/runs/{things.run}/note", data=note)
    yield client.build_request("POST", "/api/v1/runs", content=YAML, headers={"content-type": "application/yaml"})


def head(request: httpx.Request, body: bytes, *, in_chunks: bool) -> bytes:
    """A request up to its body; of one that is empty a byte is announced."""
    length = ("transfer-encoding", "chunked") if in_chunks else ("content-length", str(max(len(body), 1)))
    kept = [pair for pair in request.headers.items() if pair[0] not in ("content-length", "transfer-encoding")]
    lines = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1", *map(": ".join, [*kept, length])]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("in_chunks", [False, True], ids=["of an announced length", "in chunks"])
def test_half_of_a_request_changes_nothing_at_any_route(world: World, in_chunks: bool) -> None:
    place = urlsplit(world.web.address)
    with world.client("admin") as client:
        requests = list(wholes(world, client))
        before = changes(world)
        for request in requests:
            body = request.read()
            half = body[: len(body) // 2]
            with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
                connection.sendall(head(request, body, in_chunks=in_chunks))
                if half and in_chunks:
                    connection.sendall(f"{len(half):x}\r\n".encode() + half + b"\r\n")
                connection.sendall(BROKEN_CHUNK if in_chunks else half)
                if in_chunks:
                    connection.recv(1 << 16)
        assert client.patch("/api/v1/me", json={"language": "en"}).status_code == 200
    wait_until(lambda: changes(world) != before, seconds=30)
    time.sleep(1.0)  # what was carried out wrongly would be written down by then
    assert [after - then for after, then in zip(changes(world), before, strict=True)] == [1, 0]


def changes(world: World) -> list[int]:
    """How much was written down as done, and how many runs there are."""
    with world.web.session() as session:
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in (Audit, Run)]
