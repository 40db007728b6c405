"""The page of a data set over plain HTTP: every state has an address, every figure is the trainer's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from backend.core.models import Role
from backend.core.settings import Settings
from backend.web import inspecting
from tests.web.conftest import account, client_of

ROWS = [
    {"instruction": "What eats hay?", "output": "The cow eats hay, and the horse does."},
    {"instruction": "What eats mice?", "output": "The owl eats mice. " * 30},
    {"instruction": "What eats hay?", "output": "The cow eats hay, and the horse does."},
    {"instruction": "Who are you?", "output": "As an AI language model, I have no name."},
    {"instruction": "Write to whom?", "output": "Write to ana@example.org, please do."},
    {"instruction": "A colour?", "output": "Blue."},
]


@pytest.fixture
async def animals(here: Settings, member: httpx.AsyncClient, tiny_base: Path) -> httpx.AsyncClient:
    """Somebody with a data set `animals` and a model `tiny`."""
    shutil.copytree(tiny_base, here.folder("models") / "tiny")
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    assert (await member.put("/api/v1/datasets/animals?filename=animals.jsonl", content=content)).status_code == 201
    return member


def texts(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


async def test_the_page_comes_at_once_and_asks_for_what_takes_long(animals: httpx.AsyncClient) -> None:
    page = (await animals.get("/datasets/animals")).text
    assert 'hx-get="/datasets/animals/preview?' in page
    assert 'hx-get="/datasets/animals/measured?' in page
    assert "The cow eats hay" in page


async def test_whoever_has_no_script_waits_and_sees_all(animals: httpx.AsyncClient) -> None:
    page = (await animals.get("/datasets/animals?model=tiny&max_length=100&wait=1")).text
    assert 'hx-trigger="load' not in page
    told = texts(page)
    assert "1 row is longer than 100 tokens." in told
    assert "1 row repeats another row" in told
    assert "1 answer speaks of being an AI" in told
    assert "Personal data in 1 row" in told


async def test_marked_rows_are_shown_though_others_rows_put_them_out_of_what_is_remembered(
    animals: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspecting.marks, "put", lambda *_: None)  # gone before it is asked for again
    told = texts((await animals.get("/datasets/animals/preview?model=tiny&max_length=100&view=tokens&wait=1")).text)
    assert "Row 1 36 tokens, 19 learned" in told
    assert "Row 5 53 tokens, 32 learned" in told


async def test_what_every_cut_costs_is_told_by_the_api(animals: httpx.AsyncClient) -> None:
    told = (await animals.get("/api/v1/datasets/animals/lengths?model=tiny&max_length=100&truncation=cut_end")).json()
    assert (told["over"], told["rows"], told["measured"], told["end_token"]) == (1, 6, 6, "<|im_end|>")
    assert told["longest"] > 100
    refused = await animals.get("/api/v1/datasets/animals/lengths?model=../etc")
    assert refused.status_code == 403


async def test_no_cut_is_listed_twice_where_rows_are_longer_than_the_context(animals: httpx.AsyncClient) -> None:
    longer = json.dumps({"instruction": "What eats mice?", "output": "The owl eats mice. " * 300}) + "\n"
    await animals.put("/api/v1/datasets/owls?filename=owls.jsonl", content=longer.encode() * 2)
    page = (await animals.get("/datasets/owls?model=tiny&wait=1")).text
    table = page.split('class="table costs"')[1].split("</table>")[0]
    cuts = re.findall(r"<td><[ab][^>]*>([\d,]+)<", table)
    assert len(cuts) == len(set(cuts)) > 1
    assert table.count("aria-selected") == 1


async def test_a_fix_is_a_new_version_that_says_whence_it_came(
    app: FastAPI, animals: httpx.AsyncClient, session: Session
) -> None:
    found = {each["cleaner"]: each["rows"] for each in (await animals.get("/api/v1/datasets/animals/findings")).json()}
    assert (found["repeats"], found["personal"], found["broken"]) == (1, 1, 0)
    async with client_of(app, account(session, Role.MEMBER, "another").headers) as other:
        assert (await other.post("/api/v1/datasets/animals/mend", json={"cleaner": "repeats"})).status_code == 403
    assert (await animals.post("/api/v1/datasets/animals/mend", json={"cleaner": "no such"})).status_code == 404
    nothing = await animals.post("/api/v1/datasets/animals/mend", json={"cleaner": "broken"})
    assert nothing.json()["error"]["code"] == "mend.nothing"
    made = (await animals.post("/api/v1/datasets/animals/mend", json={"cleaner": "repeats"})).json()
    assert (made["version"]["number"], made["version"]["rows"]) == (2, 5)
    page = texts((await animals.get("/datasets/animals")).text)
    assert "From version 1: 1 repeated row left out." in page


async def test_a_version_is_downloaded_as_json_lines(animals: httpx.AsyncClient) -> None:
    answer = await animals.get("/api/v1/datasets/animals/download")
    assert 'filename="animals-v1.jsonl"' in answer.headers["content-disposition"]
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert len(rows) == len(ROWS)
    assert rows[5]["messages"][1]["content"] == "Blue."


@pytest.mark.parametrize(
    "row",
    [
        {"text": "owl " * 300_000},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A " * 300_000}]},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}] * 5000},
    ],
    ids=["a text", "an answer", "many turns"],
)
async def test_of_a_very_long_row_the_page_shows_the_beginning(member: httpx.AsyncClient, row: dict[str, Any]) -> None:
    content = (json.dumps(row) + "\n").encode() + b'{"text": "The owl."}\n' * ("text" in row)
    assert (await member.put("/api/v1/datasets/long", content=content)).status_code == 201
    page = (await member.get("/datasets/long?view=text")).text
    assert len(page) < 600_000
    assert texts(page).count("of this row are not shown.") == 1


async def test_whatever_makes_no_sense_in_the_address_counts_as_unsaid(animals: httpx.AsyncClient) -> None:
    strange = "version=&row=-3&max_length=many&view=x&which=%00&truncation=y&learn=z&open=q&chat_template=w"
    assert (await animals.get(f"/datasets/animals?{strange}")).status_code == 200
    assert (await animals.get("/datasets/animals?version=9")).status_code == 404


async def test_without_a_model_rows_are_shown_with_the_way_to_one(member: httpx.AsyncClient) -> None:
    assert (await member.put("/api/v1/datasets/words", content=b'{"text": "The owl."}\n')).status_code == 201
    page = texts((await member.get("/datasets/words")).text)
    assert "The owl." in page
    assert "Get a model" in page
