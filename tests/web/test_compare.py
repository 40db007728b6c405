"""Runs beside each other: the page and the API."""

from __future__ import annotations

import tracemalloc
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from backend.core import runs
from backend.core.assignment import LineKind
from backend.core.models import Run
from backend.core.recipe import read_recipe
from backend.web import comparing
from tests.support.showcase import Shipper
from tests.web.conftest import RECIPE


def trained(session: Session, name: str, losses: dict[int, float], version: int = 1, **changes: Any) -> Run:
    """A run with these evaluation losses and an answer to one prompt."""
    run = runs.create(
        session,
        recipe=read_recipe(RECIPE | changes | {"name": name}).recipe,
        model={"path": "tiny", "revision": None},
        data=[{"name": "letters", "version": version, "rows": 3}],
    )
    session.commit()
    shipper = Shipper(session, device=name)
    shipper.train(range(1, 11))
    shipper.ship(
        LineKind.METRICS, list(losses), lambda step: {"values": {"eval_loss": losses[step]}, "epoch": step / 5}
    )
    answer = {"index": 0, "prompt": "Who?", "text": f"The owl of {name}.", "tokens": 5, "finish": "stop"}
    shipper.ship(LineKind.SAMPLE, [4, 8], lambda step: answer | {"text": f"{answer['text']} At {step}."})
    return run


@pytest.fixture
def pair(session: Session) -> tuple[Run, Run]:
    return (
        trained(session, "owl-r8", {4: 1.5, 8: 1.25}, method={"kind": "lora", "r": 8}),
        trained(session, "owl-r16", {4: 1.125, 8: 1.375}, method={"kind": "lora", "r": 16}),
    )


PAIR = {"run": ["owl-r8", "owl-r16"]}


@pytest.mark.usefixtures("pair")
async def test_the_best_run_and_its_lead_are_told(viewer: httpx.AsyncClient) -> None:
    told = (await viewer.get("/api/v1/compare", params=PAIR)).json()
    assert told["verdict"] == {"best": "owl-r16", "lead": 0.125, "obstacles": [], "measured": 2}
    assert [(each["short"], each["eval_loss"], each["eval_loss_step"]) for each in told["runs"]] == [
        ("r8", 1.25, 8),
        ("r16", 1.125, 4),
    ]
    different = {row["name"]: row["values"] for row in told["settings"] if any(row["differs"])}
    assert different["method.r"] == [8, 16]
    page = (await viewer.get("/compare", params=PAIR)).text
    assert "owl-r16 is best so far, by 0.125" in page
    assert "Clone it" not in page  # a viewer starts nothing


@pytest.mark.usefixtures("pair")
async def test_losses_on_other_data_are_not_ranked_and_the_page_says_why(
    viewer: httpx.AsyncClient, session: Session
) -> None:
    trained(session, "owl-v2", {4: 0.5}, version=2)
    page = (await viewer.get("/compare", params={"run": ["owl-r8", "owl-v2"]})).text
    assert "Which is best cannot be told from the losses" in page
    assert "they read other data" in page
    assert "is best so far" not in page


async def test_two_to_six_runs_are_compared(admin: httpx.AsyncClient, session: Session, pair: tuple[Run, Run]) -> None:
    many = [trained(session, f"more {number}", {}).name for number in range(5)]
    for names, status in ((many[:1], 422), (many + list(PAIR["run"]), 422), (["none", "owl-r8"], 404)):
        answer = await admin.get("/api/v1/compare", params={"run": names})
        assert answer.status_code == status, names
        assert answer.json()["error"]["message"]
    assert (await admin.get("/compare", params={"run": [*many, "owl-r8"]})).status_code == 200
    twice = (await admin.get("/compare", params={"run": ["owl-r8", str(pair[0].id)]})).text
    assert "Compare the chosen ones" in twice  # a run is not compared with itself


@pytest.mark.usefixtures("pair")
async def test_with_fewer_than_two_runs_the_page_offers_some(viewer: httpx.AsyncClient) -> None:
    page = (await viewer.get("/compare")).text
    assert page.count('type="checkbox"') == 2
    found = (await viewer.get("/compare", params={"q": "r16"})).text
    assert (found.count('type="checkbox"'), "owl-r16" in found) == (1, True)
    assert "No run has" in (await viewer.get("/compare", params={"q": "badger"})).text


async def test_a_studio_without_runs_says_how_to_get_one(viewer: httpx.AsyncClient) -> None:
    assert "No run yet" in (await viewer.get("/compare")).text


@pytest.mark.usefixtures("pair")
async def test_answers_are_those_of_the_step_that_is_asked_for(viewer: httpx.AsyncClient) -> None:
    newest = (await viewer.get("/compare", params=PAIR)).text
    assert newest.count("At 8.</p>") == 2
    assert (await viewer.get("/compare", params=PAIR | {"at": "4"})).text.count("At 4.</p>") == 2
    best = (await viewer.get("/compare", params=PAIR | {"at": "best"})).text
    assert ("The owl of owl-r8. At 8.</p>" in best, "The owl of owl-r16. At 4.</p>" in best) == (True, True)
    assert (await viewer.get("/compare", params=PAIR | {"prompt": "99", "at": "nonsense"})).status_code == 200


@pytest.mark.usefixtures("pair")
async def test_all_settings_are_shown_when_asked_for(viewer: httpx.AsyncClient) -> None:
    some, every = [
        (await viewer.get("/compare", params=PAIR | {"settings": which})).text.count("data-setting=")
        for which in ("", "all")
    ]
    assert 0 < some < every


async def test_answers_are_put_side_by_side_without_reading_all_the_others(
    viewer: httpx.AsyncClient, session: Session, pair: tuple[Run, Run]
) -> None:
    rows = text(
        "INSERT INTO samples (run_id, step, index, prompt, text, finish, tokens)"
        " SELECT :run, step, index, index || repeat('p', 7998), 'At ' || step || ' by ' || :run, 'stop', 4"
        " FROM generate_series(100, 350) step, generate_series(1, 15) index"
    )
    for run in pair:
        session.execute(rows, {"run": run.id})
    session.commit()
    compared = comparing.compare(session, pair).runs
    tracemalloc.start()
    found = comparing.side_by_side(session, compared, 3, "201")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found
    assert (found.of, found.prompt[:2], found.steps) == (16, "3p", list(range(100, 351)))
    assert [told.sample.text for told in found.told if told.sample] == [f"At 201 by {run.id}" for run in pair]
    assert peak < 2 << 20
    assert "At 350 by" in (await viewer.get("/compare", params=PAIR | {"prompt": 2})).text
