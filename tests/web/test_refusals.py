"""What is refused, in which words, and what a refusal leaves behind: nothing."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import time
from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from backend.core.models import Role
from backend.core.settings import Settings
from tests.web.conftest import Account, account, client_of

ROWS = b'{"instruction": "say 1", "output": "1!"}\n'
RECIPE = {"model": "tiny", "data": {"sets": ["a"]}}
LONG = "a" * 300


@pytest.fixture
async def numbers(app: FastAPI, session: Session) -> str:
    """A data set of somebody else's."""
    async with client_of(app, account(session, Role.MEMBER, "ada").headers) as ada:
        assert (await ada.put("/api/v1/datasets/numbers", content=ROWS)).status_code == 201
    return "numbers"


def left_behind(here: Settings) -> list[str]:
    return sorted(path.name for path in here.folder("uploads").iterdir())


async def test_a_file_for_the_data_set_of_another_is_not_kept(
    numbers: str, member: httpx.AsyncClient, here: Settings
) -> None:
    refused = await member.put(f"/api/v1/datasets/{numbers}", content=ROWS)
    assert refused.status_code == 403
    assert left_behind(here) == []


async def test_an_upload_in_pieces_for_the_data_set_of_another_is_not_begun(
    numbers: str, member: httpx.AsyncClient, here: Settings
) -> None:
    words = "dataset " + base64.b64encode(numbers.encode()).decode()
    refused = await member.post("/api/v1/uploads", headers={"upload-length": "9", "upload-metadata": words})
    assert refused.status_code == 403
    assert left_behind(here) == []


async def test_a_data_set_that_becomes_anothers_meanwhile_takes_no_upload(
    app: FastAPI, session: Session, member: httpx.AsyncClient, here: Settings
) -> None:
    words = "dataset " + base64.b64encode(b"late").decode()
    made = await member.post("/api/v1/uploads", headers={"upload-length": str(len(ROWS)), "upload-metadata": words})
    async with client_of(app, account(session, Role.MEMBER, "ada").headers) as ada:
        assert (await ada.put("/api/v1/datasets/late", content=ROWS)).status_code == 201
    piece = {"content-type": "application/offset+octet-stream", "upload-offset": "0"}
    refused = await member.patch(made.headers["location"], content=ROWS, headers=piece)
    assert refused.status_code == 403
    assert left_behind(here) == []


async def test_the_recipe_of_another_gets_no_new_version(
    app: FastAPI, session: Session, member: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    async with client_of(app, account(session, Role.MEMBER, "ada").headers) as ada:
        assert (await ada.post("/api/v1/recipes", json={"name": "shared", "recipe": RECIPE})).status_code == 201
    changed = {"name": "shared", "recipe": RECIPE | {"method": "full"}}
    assert (await member.post("/api/v1/recipes", json=changed)).status_code == 403
    form = {"view": "yaml", "yaml": "model: tiny\ndata: {sets: [a]}\n", "save_as": "shared"}
    assert (await member.post("/runs/recipe", data=form)).status_code == 403
    assert (await member.get("/api/v1/recipes/shared")).json()["versions"] == 1
    assert (await admin.post("/api/v1/recipes", json=changed)).status_code == 201


async def test_a_name_that_many_take_at_once_makes_one_recipe(member: httpx.AsyncClient) -> None:
    body = {"name": "raced", "recipe": RECIPE}
    answers = await asyncio.gather(*(member.post("/api/v1/recipes", json=body) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert (await member.get("/api/v1/recipes/raced")).json()["versions"] == 8


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize(
    "path",
    [
        f"/api/v1/models/inspect?path={LONG}",
        f"/api/v1/datasets/numbers/preview?model={LONG}",
        f"/datasets/numbers/preview?model={LONG}",
        f"/datasets/numbers/preview?model={LONG * 2}",
        "/datasets/numbers/preview?model=tiny&chat_template=mine",
    ],
)
async def test_what_cannot_be_a_model_or_a_template_is_told_in_words(path: str, viewer: httpx.AsyncClient) -> None:
    assert (await viewer.get(path)).status_code < 500


async def test_bytes_in_the_words_of_an_upload_are_told_in_words(member: httpx.AsyncClient) -> None:
    headers = [(b"upload-length", b"9"), (b"upload-metadata", b"dataset \xff")]
    assert (await member.post("/api/v1/uploads", headers=headers)).status_code == 422


async def test_the_link_to_the_other_language_stays_on_this_site(viewer: httpx.AsyncClient) -> None:
    for path in ("//evil.test/x", "/%5Cevil.test/x", "/help?a=1"):
        page = (await viewer.get("http://127.0.0.1:8321" + path)).text
        link = page.split('hreflang="zh-CN"')[0].rpartition('href="')[2]
        assert link.startswith("?"), (path, link)


def test_an_upload_that_breaks_off_is_no_failure_of_ours(
    served: str, session: Session, here: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    cookie = account(session, Role.MEMBER)
    with (
        caplog.at_level(logging.ERROR),
        socket.create_connection(("127.0.0.1", int(served.rpartition(":")[2]))) as line,
    ):
        line.sendall(broken_off(cookie))
        until(lambda: left_behind(here) != [])
    until(lambda: left_behind(here) == [])
    time.sleep(0.2)
    assert caplog.text == ""


def broken_off(somebody: Account) -> bytes:
    """The beginning of an upload."""
    words = {**somebody.headers, "host": "127.0.0.1:8321", "content-length": "9000000"}
    lines = ["PUT /api/v1/datasets/broken HTTP/1.1", *(f"{name}: {value}" for name, value in words.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + b"x" * 2_000_000


def until(is_so: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("body", [b'{"\\ud800": 1}', b'{"note": "\\ud800"}'])
async def test_half_a_pair_of_surrogates_is_refused_in_words_that_can_be_sent(
    member: httpx.AsyncClient, body: bytes
) -> None:
    for path in ("/api/v1/runs/any", "/api/v1/me"):
        answer = await member.patch(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    "text", ['{"model": "\\ud800"}', '{"\\ud800": 1}', '{"model": "a", "data": {"sets": ["\\ud800"]}}']
)
async def test_a_recipe_with_half_a_pair_of_surrogates_is_refused(member: httpx.AsyncClient, text: str) -> None:
    for path in ("/api/v1/preflight", "/api/v1/runs"):
        answer = await member.post(path, content=text, headers={"content-type": "application/json"})
        assert answer.status_code == 422, answer.text
    saved = await member.post("/api/v1/recipes", content=f'{{"name": "x", "recipe": {text}}}')
    assert saved.status_code == 422, saved.text


async def test_a_look_at_a_file_finds_what_the_reading_refuses(member: httpx.AsyncClient) -> None:
    rows = b'{"text": "a\\u0000"}\n{"text": "\\ud800"}\n{"text": "good"}\n'
    query = {"filename": "a.jsonl", "size": str(len(rows))}
    answer = (await member.post("/api/v1/datasets/probe", params=query, content=rows)).json()
    assert [problem["code"] for problem in answer["problems"]] == ["rows.nul", "rows.unicode"]
    assert [row["text"] for row in answer["rows"]] == ["good"]


async def test_a_column_whose_name_no_answer_can_carry_is_shown_as_it_is_written(member: httpx.AsyncClient) -> None:
    rows = b'{"text": "a", "\\ud800\\u0000": "b"}\n'
    query = {"filename": "a.jsonl", "size": str(len(rows))}
    answer = await member.post("/api/v1/datasets/probe", params=query, content=rows)
    assert answer.status_code == 200, answer.text
    assert [column["name"] for column in answer.json()["columns"]] == ["text", "\\ud800\\0"]
    assert (await member.put("/api/v1/datasets/odd", content=rows)).status_code == 201


@pytest.mark.parametrize("path", ["/api/v1/datasets/%3Cimg%20src=x%3E", "/datasets/%3Cimg%20src=x%3E/preview"])
async def test_a_name_full_of_markup_is_told_to_scripts_without_any(member: httpx.AsyncClient, path: str) -> None:
    """htmx makes elements even of an error, before it leaves them out of the page."""
    told = await member.get(path, headers={"hx-request": "true"})
    assert (told.status_code, b"<" in told.content) == (404, False)
    assert "“<img src=x>”" in told.json()["error"]["message"]
