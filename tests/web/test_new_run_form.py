"""The form of a new run by plain HTTP: its views, its preflight in two stages, and the one run that it starts."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core.models import Run
from backend.core.settings import Settings

ROWS = b'{"instruction": "Say hi to Ana.", "output": "Hi Ana!"}\n' * 3
FORM = {"view": "advanced", "model.path": "tiny", "data.sets.0.name": "a", "method.kind": "lora"}


@pytest.fixture
async def writer(member: httpx.AsyncClient, here: Settings, tiny_base: Path) -> httpx.AsyncClient:
    """A member of a studio with one model and one data set."""
    shutil.copytree(tiny_base, here.root / "models" / "tiny")
    assert (await member.put("/api/v1/datasets/a", content=ROWS)).status_code == 201
    return member


async def test_with_one_model_and_one_data_set_both_are_chosen(writer: httpx.AsyncClient) -> None:
    page = (await writer.get("/runs/new")).text
    assert '<option value="tiny" selected>' in page
    assert '<option value="a" selected>' in page
    assert "Steps" in page


@pytest.mark.parametrize("view", ["simple", "advanced", "yaml"])
async def test_every_view_is_drawn(writer: httpx.AsyncClient, view: str) -> None:
    page = await writer.get(f"/runs/new?view={view}")
    assert page.status_code == 200
    assert f'data-view="{view}"' in page.text


async def test_two_clicks_on_start_make_one_run(writer: httpx.AsyncClient, session: Session) -> None:
    form = FORM | {"once": "a-word-of-this-form"}
    answers = await asyncio.gather(*(writer.post("/runs", data=form) for _ in range(2)))
    assert [answer.status_code for answer in answers] == [303, 303]
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len(session.scalars(select(Run)).all()) == 1
