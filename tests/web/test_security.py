"""The guard in front of every route."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session

from backend.core.models import Role
from backend.web.security import OPEN, OWN, check_host, safe_next
from tests.web.conftest import ADDRESS, account, client_of

ANY_ID = "00000000-0000-7000-8000-000000000000"
WRITES = ("POST", "PUT", "PATCH", "DELETE")


def declared_routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every (method, path) that the application answers to, the path as it was declared."""

    def walk(routes: object, prefix: str = "") -> Iterator[tuple[str, str]]:
        for route in routes:  # type: ignore[attr-defined]
            if isinstance(route, APIRoute):
                yield from ((method, prefix + route.path) for method in sorted(route.methods or ()))
            elif hasattr(route, "original_router"):
                yield from walk(route.original_router.routes, prefix + route.include_context.prefix)

    yield from walk(app.routes)


def all_routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """The same, parameters filled in."""
    yield from ((method, re.sub(r"\{[^}]*\}", ANY_ID, path)) for method, path in declared_routes(app))


async def test_every_route_is_closed_to_strangers_but_for_the_open_ones(app: FastAPI) -> None:
    found = list(all_routes(app))
    assert len(found) > 60
    async with client_of(app) as stranger:
        for method, path in found:
            answer = await stranger.request(method, path)
            if path in OPEN:
                assert "location" not in answer.headers, path
            elif path.startswith("/api/"):
                assert answer.status_code == 401, (method, path)
            else:
                assert answer.status_code == 303, (method, path)
                assert answer.headers["location"].startswith("/signin"), (method, path)


async def test_viewers_write_nothing_but_their_own(app: FastAPI, viewer: httpx.AsyncClient) -> None:
    closed = [(m, p) for m, p in all_routes(app) if m in WRITES and p not in OPEN and not OWN.fullmatch(p)]
    assert len(closed) > 20
    for method, path in closed:
        answer = await viewer.request(method, path)
        assert answer.status_code == 403, (method, path)


async def test_people_are_for_administrators(member: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    for path in ("/api/v1/people", "/settings/people", "/api/v1/audit", "/settings/audit"):
        assert (await member.get(path)).status_code == 403
        assert (await admin.get(path)).status_code == 200


async def test_a_name_that_is_not_ours_is_refused(anonymous: httpx.AsyncClient) -> None:
    for host in ("evil.test", "127.0.0.1.evil.test", "localhost.evil.test:8321", "", "a@127.0.0.1/", "127.0.0.1/.evil"):
        answer = await anonymous.get("/healthz", headers={"host": host, "user-agent": "curl/8"})
        assert answer.status_code == 400, host


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1:8321", "[::1]:80", "192.168.3.4", "box.lan"])
def test_addresses_and_configured_names_are_answered(host: str) -> None:
    check_host(host, ["box.lan"])


async def test_a_write_from_another_site_is_refused(admin: httpx.AsyncClient) -> None:
    for origin in ("https://evil.test", "null", "http://127.0.0.1:9999", "http://[evil", "", "127.0.0.1:8321"):
        answer = await admin.post("/api/v1/tokens", json={"name": "x"}, headers={"origin": origin})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site"), origin


async def test_a_write_that_a_browser_marks_as_cross_site_is_refused(admin: httpx.AsyncClient) -> None:
    for site in ("cross-site", "same-site"):
        answer = await admin.post("/api/v1/tokens", json={"name": "x"}, headers={"sec-fetch-site": site})
        assert answer.status_code == 403


async def test_a_cookie_alone_writes_nothing(app: FastAPI, session: Session) -> None:
    headers = account(session, Role.ADMIN).headers
    async with client_of(app, headers | {"x-csrf-token": "guessed"}) as client:
        assert (await client.post("/api/v1/tokens", json={"name": "x"})).json()["error"]["code"] == "csrf"
    del headers["x-csrf-token"]
    async with client_of(app, headers) as client:
        assert (await client.post("/settings/language", data={"language": "zh"})).status_code == 403


async def test_a_form_writes_with_the_token_in_a_field(app: FastAPI, session: Session) -> None:
    somebody = account(session, Role.VIEWER)
    headers = {key: value for key, value in somebody.headers.items() if key != "x-csrf-token"}
    async with client_of(app, headers) as client:
        data = {"language": "zh", "csrf_token": somebody.identity.csrf_token}
        assert (await client.post("/settings/language", data=data)).status_code == 303


async def test_a_token_writes_without_cookie_or_csrf(app: FastAPI, admin: httpx.AsyncClient) -> None:
    secret = (await admin.post("/api/v1/tokens", json={"name": "ci", "role": "viewer"})).json()["token"]
    async with client_of(app, {"authorization": f"Bearer {secret}"}) as program:
        assert (await program.get("/api/v1/me")).json()["role"] == "viewer"
        assert (await program.get("/api/v1/people")).status_code == 403
        assert (await program.post("/api/v1/recipes", json={})).status_code == 403
        assert (await program.post("/api/v1/tokens", json={"name": "more", "role": "viewer"})).status_code == 403


async def test_a_wrong_token_is_not_made_good_by_a_cookie(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/api/v1/me", headers={"authorization": "Bearer fts_wrong"})).status_code == 401


async def test_every_answer_carries_the_policy(anonymous: httpx.AsyncClient) -> None:
    for path in ("/signin", "/nowhere", "/api/v1/me", "/static/none.js"):
        headers = (await anonymous.get(path)).headers
        assert "require-trusted-types-for 'script'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    first, second = [(await anonymous.get("/signin")).headers["content-security-policy"] for _ in range(2)]
    assert first != second


async def test_a_large_body_is_refused_whether_or_not_it_says_so(admin: httpx.AsyncClient) -> None:
    assert (await admin.post("/api/v1/recipes", content=b"x" * (2 << 20))).status_code == 413

    async def pieces() -> object:
        for _ in range(40):
            yield b"x" * (64 << 10)

    assert (await admin.post("/api/v1/recipes", content=pieces())).status_code == 413  # type: ignore[arg-type]


async def test_ten_thousand_form_fields_are_refused(admin: httpx.AsyncClient) -> None:
    data = {f"f{n}": "x" for n in range(10_000)}
    assert (await admin.post("/runs/none/act", data=data)).status_code == 413


@pytest.mark.parametrize(
    "target",
    [
        "//evil.test",
        "/\\evil.test",
        "https://evil.test",
        "javascript:alert(1)",
        "/\n/evil.test",
        "",
        "\\\\evil.test",
        "/\t/evil.test",
    ],
)
def test_signing_in_leads_to_no_other_site(target: str) -> None:
    assert safe_next(target) == "/"


def test_signing_in_leads_back_to_where_one_was() -> None:
    assert safe_next("/runs/a%20b?x=1#y") == "/runs/a%20b?x=1#y"


TRAVERSAL = [
    "..%2f..%2fetc%2fpasswd",
    "%252e%252e%252fetc",
    "..%5c..%5cetc",
    "%00",
    "a%0d%0ab",
    "%2e%2e",
    "x" * 250,
    ";touch x",
    "C:%2f",
    "‮gpj",
]


async def test_a_hostile_name_is_an_error_in_words_everywhere(app: FastAPI, admin: httpx.AsyncClient) -> None:
    named = [(method, path) for method, path in all_routes(app) if ANY_ID in path]
    assert len(named) > 30
    for name in TRAVERSAL:
        for method, path in named:
            answer = await admin.request(method, path.replace(ANY_ID, name))
            assert 400 <= answer.status_code < 500, (method, path, name, answer.text[:200])


async def test_a_name_with_markup_is_shown_as_text(admin: httpx.AsyncClient) -> None:
    page = (await admin.get("/runs", params={"q": "<img src=x onerror=alert(1)>"})).text
    assert "<img src=x" not in page


async def test_the_origin_of_the_studio_itself_passes(admin: httpx.AsyncClient) -> None:
    headers = {"origin": ADDRESS, "sec-fetch-site": "same-origin"}
    assert (await admin.post("/api/v1/tokens", json={"name": "x"}, headers=headers)).status_code == 201
