"""The page of a data set over plain HTTP: every state has an address, every figure is the trainer's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from backend.core.models import Role
from backend.core.settings import Settings
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
