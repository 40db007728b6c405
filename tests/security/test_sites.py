"""Other sites: what a page of theirs can make somebody's browser send to the studio, and what it may read.

Gradio CVE-2024-1727 and CVE-2024-47084, Open WebUI CVE-2026-56400, MLflow CVE-2025-1473, Ray CVE-2025-62593.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from backend.core.settings import Settings
from backend.web.app import create_app
from tests.security.asking import Request, asked
from tests.security.test_audit import rows
from tests.security.world import World
from tests.support.routes import WRITES, declared_routes

FOREIGN = (
    {"origin": "https://evil.test"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:9"},
    {"origin": ""},
    {"origin": "https://evil.test", "sec-fetch-site": "same-origin"},
    {"origin": "https://evil.test", "content-type": "multipart/form-data; boundary=x"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
)
HOSTS = (
    ("evil.test", "Mozilla/5.0"),
    ("127.0.0.1.evil.test", "curl/8"),
    ("localhost.evil.test:8321", ""),
    ("a@127.0.0.1", "Mozilla/5.0"),
)
SHARING = ("access-control-allow-origin", "access-control-allow-credentials", "access-control-allow-methods")


@pytest.fixture
def writes(world: World, here: Settings) -> Iterator[list[tuple[str, Request]]]:
    """Each write that an administrator's browser could do. After the test none of them was done."""
    things = world.things("admin")
    routes = [f"{method} {path}" for method, path in declared_routes(create_app(here)) if method in WRITES]
    made = [(route, asked(route, things)) for route in routes]
    before = len(rows(world))
    yield made
    assert [row.action for row in rows(world)[before:] if row.action != "sign_in"] == []


def refused(world: World, writes: list[tuple[str, Request]], headers: dict[str, str], status: int) -> list[str]:
    """The writes that are answered otherwise than with `status` when an administrator's browser sends these headers."""
    wrong = []
    with world.client("admin") as client:
        standing = {name: client.headers[name] for name in ("cookie", "x-csrf-token")}
        with httpx.Client(base_url=world.web.address, timeout=60, trust_env=False) as browser:
            for route, (method, path, words) in writes:
                told = {**words.get("headers", {}), **standing, **headers}
                answer = browser.request(method, path, **words | {"headers": told})
                if answer.status_code != status or any(name in answer.headers for name in SHARING):
                    wrong.append(f"{route} {headers}: {answer.status_code} {answer.text[:99]}")
    return wrong


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_no_write_is_taken_from_another_site(
    world: World, writes: list[tuple[str, Request]], headers: dict[str, str]
) -> None:
    assert refused(world, writes, headers, 403) == []


def test_a_cookie_alone_writes_nothing_anywhere(world: World, writes: list[tuple[str, Request]]) -> None:
    assert refused(world, writes, {"origin": world.web.address, "x-csrf-token": "guessed"}, 403) == []


@pytest.mark.parametrize(("host", "agent"), HOSTS)
def test_a_name_that_is_not_ours_is_refused_at_every_write_whoever_asks(
    world: World, writes: list[tuple[str, Request]], host: str, agent: str
) -> None:
    assert refused(world, writes, {"origin": f"http://{host}", "host": host, "user-agent": agent}, 400) == []


def test_no_site_may_read_an_answer(world: World) -> None:
    with world.client("admin") as client:
        for path in ("/", "/api/v1/me", "/api/v1/runs", "/api/v1/openapi.json", "/healthz"):
            for method in ("GET", "OPTIONS"):
                asking = {"origin": "https://evil.test", "access-control-request-method": "PUT"}
                answer = client.request(method, path, headers=asking)
                assert not any(name in answer.headers for name in SHARING), (method, path)
                assert answer.headers["cross-origin-resource-policy"] == "same-origin"
