"""The guard in front of every route."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from backend.core.models import Role
from backend.web.security import check_host, safe_next
from tests.web.conftest import ADDRESS, account, client_of


async def test_a_name_that_is_not_ours_is_refused(anonymous: httpx.AsyncClient) -> None:
    for host in ("evil.test", "127.0.0.1.evil.test", "localhost.evil.test:8321", "", "a@127.0.0.1/", "127.0.0.1/.evil"):
        answer = await anonymous.get("/healthz", headers={"host": host, "user-agent": "curl/8"})
        assert answer.status_code == 400, host


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1:8321", "[::1]:80", "192.168.3.4", "box.lan"])
def test_addresses_and_configured_names_are_answered(host: str) -> None:
    check_host(host, ["box.lan"])


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


async def test_a_token_neither_locks_its_owner_out_nor_revokes_any_but_itself(
    app: FastAPI, admin: httpx.AsyncClient
) -> None:
    def named(name: str) -> dict[str, str]:
        return {"name": name, "role": "admin"}

    found, other = [(await admin.post("/api/v1/tokens", json=named(name))).json() for name in ("found", "other")]
    here = (await admin.get("/api/v1/me/sessions")).json()[0]["id"]
    passwords = {"old": "no password", "new": "four quiet words"}
    async with client_of(app, {"authorization": f"Bearer {found['token']}"}) as program:
        for method, path, body in (
            ("DELETE", "/api/v1/me/sessions", None),
            ("DELETE", f"/api/v1/me/sessions/{here}", None),
            ("PUT", "/api/v1/me/password", passwords),
            ("DELETE", f"/api/v1/tokens/{other['id']}", None),
            ("POST", "/api/v1/tokens", named("more")),
            ("POST", "/settings/sessions/end", None),
            ("POST", f"/settings/sessions/{here}/end", None),
            ("POST", "/settings/password", None),
            ("POST", f"/settings/tokens/{other['id']}/revoke", None),
            ("POST", "/settings/tokens", None),
        ):
            answer = await program.request(method, path, json=body, headers={"accept-language": "zh"})
            assert (answer.status_code, "令牌不能" in answer.text) == (403, True), (method, path)
        assert (await admin.get("/api/v1/me")).status_code == 200
        assert (await program.delete(f"/api/v1/tokens/{found['id']}")).status_code == 204
        assert (await program.get("/api/v1/me")).status_code == 401


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


async def test_a_name_with_markup_is_shown_as_text(admin: httpx.AsyncClient) -> None:
    page = (await admin.get("/runs", params={"q": "<img src=x onerror=alert(1)>"})).text
    assert "<img src=x" not in page


async def test_the_origin_of_the_studio_itself_passes(admin: httpx.AsyncClient) -> None:
    headers = {"origin": ADDRESS, "sec-fetch-site": "same-origin"}
    assert (await admin.post("/api/v1/tokens", json={"name": "x"}, headers=headers)).status_code == 201


async def test_a_page_that_came_in_the_open_writes_nothing_over_tls(admin: httpx.AsyncClient) -> None:
    """Whoever stands on the line can write into a page of plain HTTP, and it has the same host."""
    secure = ADDRESS.replace("http:", "https:")
    for origin, code in ((ADDRESS, "cross_site"), (secure, "unauthenticated"), (f"ftp{ADDRESS[4:]}", "cross_site")):
        answer = await admin.post(f"{secure}/api/v1/tokens", json={"name": "x"}, headers={"origin": origin})
        assert answer.json()["error"]["code"] == code, origin


async def test_tls_may_end_in_front_of_the_studio(admin: httpx.AsyncClient) -> None:
    headers = {"origin": ADDRESS.replace("http:", "https:"), "sec-fetch-site": "same-origin"}
    assert (await admin.post("/api/v1/tokens", json={"name": "x"}, headers=headers)).status_code == 201
