"""The page of models and its API: what fits where, the hub searched, downloads begun and called off."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from backend.commands.access import make_token
from backend.commands.model import app as commands
from backend.core import bases
from backend.core.models import Device, Operation, Worker
from backend.core.settings import Settings
from tests.support.hub import COMMIT, Shelf, hub_in_place
from tests.web.conftest import queued_run

GIB = 1 << 30


@pytest.fixture(autouse=True)
def shelf(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    shelf = Shelf({"owls/tiny-instruct": tiny_base, "owls/tiny-base": tiny_base})
    with hub_in_place(shelf, tmp_path / "hf", monkeypatch):
        yield shelf


@pytest.fixture
def tiny(here: Settings, tiny_base: Path) -> Path:
    """A model that lies here."""
    return Path(shutil.copytree(tiny_base, here.root / "models" / "tiny"))


def worker(session: Session, *devices: tuple[str, str, int]) -> None:
    session.add(Worker(name="box", place="here"))
    session.flush()
    for name, title, memory in devices:
        session.add(Device(worker="box", name=name, title=title, memory_bytes=memory))
    session.commit()


async def test_models_come_with_what_fits_on_the_workers_accelerators(
    viewer: httpx.AsyncClient, session: Session, tiny: Path
) -> None:
    worker(session, ("cuda:0", "NVIDIA GeForce RTX 4090", 24 * GIB), ("cpu", "CPU, 2 cores", 8 * GIB))
    [model] = (await viewer.get("/api/v1/models")).json()
    assert (model["path"], model["kind"], model["problem"]) == (tiny.name, "instruct", None)
    assert {(fit["accelerator"], fit["method"]) for fit in model["fits"]} == {
        (place, method) for place in ("rtx-4090-24-gib", "cpu-2-cores-8-gib") for method in ("qlora", "lora", "full")
    }
    assert all(fit["verdict"] == "fits" and sum(fit["parts"].values()) == fit["bytes"] for fit in model["fits"])


async def test_the_fit_of_one_model_can_be_asked_for_more_rows_and_longer_ones(
    viewer: httpx.AsyncClient, tiny: Path
) -> None:
    async def ask(**query: Any) -> list[dict[str, Any]]:
        answer = await viewer.get("/api/v1/models/fit", params={"model": tiny.name, **query})
        assert answer.status_code == 200
        found: list[dict[str, Any]] = answer.json()
        return found

    few, many = await ask(), await ask(rows=64, length=256)
    assert [fit["accelerator"] for fit in few[::3]] == ["8-gib", "12-gib", "16-gib", "24-gib", "48-gib", "80-gib"]
    assert few[0]["bytes"] < many[0]["bytes"]
    assert (await viewer.get("/api/v1/models/fit", params={"model": "owls/none"})).status_code == 404


@pytest.mark.usefixtures("tiny")
async def test_the_page_shows_the_largest_accelerator_and_another_by_its_address(
    viewer: httpx.AsyncClient, session: Session
) -> None:
    worker(session, ("cpu", "CPU, 2 cores (x86_64)", 64 * GIB), ("cuda:0", "NVIDIA L4", 24 * GIB))
    assert "on L4 of 24.0 GiB</caption>" in (await viewer.get("/models")).text
    assert "on 8 GiB of 8.0 GiB</caption>" in (await viewer.get("/models?on=8-gib")).text
    assert "on L4 of 24.0 GiB</caption>" in (await viewer.get("/models?on=nonsense&rows=x&length=-1")).text


async def test_the_side_panel_tells_what_a_model_is_and_how_often_it_was_used(
    viewer: httpx.AsyncClient, session: Session, tiny: Path
) -> None:
    queued_run(session, "first")
    page = (await viewer.get(f"/models?model={tiny.name}&method=full")).text
    for words in ("&lt;|im_end|&gt;", "1 safetensors file", "1 run</a>", "Two running averages", "About "):
        assert words in page, words


async def test_a_model_that_cannot_be_used_says_why_and_what_to_do(
    viewer: httpx.AsyncClient, here: Settings, tiny: Path
) -> None:
    bad = Path(shutil.copytree(tiny, here.root / "models" / "bad"))
    (bad / "model.safetensors").rename(bad / "pytorch_model.bin")
    page = (await viewer.get("/models?model=bad")).text
    assert "pickled weights" in page
    assert "save_pretrained" in page


def test_a_line_that_people_paste_into_a_shell_names_a_folder_as_one_word() -> None:
    line = bases.convert_command(Path("models/out;touch x"))
    assert shlex.split(line)[3:] == ["out;touch x", "out;touch x-safetensors"]


async def test_the_hub_is_searched_by_words_and_by_id(viewer: httpx.AsyncClient) -> None:
    found = (await viewer.get("/api/v1/models/search", params={"q": "tiny"})).json()
    assert [(each["id"], each["kind"]) for each in found] == [
        ("owls/tiny-instruct", "instruct"),
        ("owls/tiny-base", "base"),
    ]
    page = (await viewer.get("/models?q=tiny&kind=base")).text
    assert "owls/tiny-base" in page
    assert "owls/tiny-instruct" not in page
    assert "1 left out by the filters" in page
    assert "owls/tiny-base" in (await viewer.get("/models?q=https://huggingface.co/owls/tiny-base")).text


async def test_a_size_that_no_model_has_breaks_neither_the_list_nor_a_search(
    viewer: httpx.AsyncClient, shelf: Shelf, tiny: Path
) -> None:
    path = tiny / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"head_dim": 10**400}))
    shelf.models["owls/tiny-headed"] = tiny
    listed = (await viewer.get("/api/v1/models")).json()
    found = (await viewer.get("/api/v1/models/search", params={"q": "tiny-headed"})).json()
    for [model] in (listed, found):
        assert "says a number for head_dim that no model has" in model["problem"]["message"]
    for address in ("/models", "/models?q=tiny-headed", f"/models?model={tiny.name}"):
        assert (await viewer.get(address)).status_code == 200


async def test_who_waits_for_the_list_of_models_keeps_nobody_from_signing_in(
    viewer: httpx.AsyncClient, member: httpx.AsyncClient, anonymous: httpx.AsyncClient, tiny: Path
) -> None:
    with bases._known[str(tiny)].lock:  # as while it is looked at
        lists = [asyncio.create_task(each.get("/api/v1/models")) for each in (viewer, member) for _ in range(25)]
        await asyncio.sleep(0.5)
        wrong = {"name": "nobody", "password": "not this one"}
        answer = await asyncio.wait_for(anonymous.post("/signin", data=wrong), 20)
        assert not any(each.done() for each in lists)
    assert answer.status_code == 401
    assert {each.status_code for each in await asyncio.gather(*lists)} == {200}


async def test_a_hub_that_cannot_be_reached_leaves_the_page_as_it_is(
    viewer: httpx.AsyncClient, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    page = await viewer.get("/models?q=tiny")
    assert page.status_code == 200
    assert "The hub cannot be reached." in page.text
    assert tiny.name in page.text
    assert (await viewer.get("/api/v1/models/search?q=tiny")).status_code == 503


async def test_a_download_is_begun_once_told_and_called_off(
    member: httpx.AsyncClient, session: Session, shelf: Shelf
) -> None:
    shelf.slow_seconds = 0.5
    first = await member.post("/api/v1/models/download", json={"id": "owls/tiny-base"})
    again = await member.post("/api/v1/models/download", json={"id": "https://huggingface.co/owls/tiny-base"})
    assert (first.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert first.headers["location"] == f"/api/v1/operations/{first.json()['id']}"
    assert session.scalars(select(Operation)).one().input["revision"] == COMMIT
    page = (await member.get("/models")).text
    assert "Download of owls/tiny-base" in page
    cancelled = await member.post(f"/models/downloads/{first.json()['id']}/cancel", data={"on": "8-gib"})
    assert (cancelled.status_code, cancelled.headers["location"]) == (303, "/models?on=8-gib")
    assert "Download of owls/tiny-base" not in (await member.get("/models")).text


async def test_viewers_look_and_download_nothing(viewer: httpx.AsyncClient) -> None:
    assert (await viewer.post("/api/v1/models/download", json={"id": "owls/tiny-base"})).status_code == 403
    assert 'action="/models/download"' not in (await viewer.get("/models?q=tiny")).text


async def test_a_gated_model_leads_to_its_terms(member: httpx.AsyncClient, shelf: Shelf) -> None:
    shelf.gated.add("owls/tiny-base")
    assert "Accept its terms" in (await member.get("/models?q=tiny-base")).text
    refused = await member.post("/api/v1/models/download", json={"id": "owls/tiny-base"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model.gated")


def test_the_command_line_searches_the_hub_and_fetches_a_model(
    served: str, here: Settings, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_URL", served)
    monkeypatch.setenv("STUDIO_TOKEN", make_token(here.database_url))
    typed = CliRunner()
    found = typed.invoke(commands, ["search", "tiny", "--json"])
    assert [each["id"] for each in json.loads(found.stdout)] == ["owls/tiny-instruct", "owls/tiny-base"]
    assert "owls/tiny-base is here." in typed.invoke(commands, ["add", "owls/tiny-base"]).stdout
    assert session.scalars(select(Operation)).one().state == "succeeded"
    refused = typed.invoke(commands, ["add", "owls/none"])
    assert refused.exit_code != 0
    assert "no model “owls/none”" in str(refused.exception)
