"""Home, the list of runs, search and recipes, as the server draws them; and the stream that tells of new runs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, event, update
from sqlalchemy.orm import Session

from backend.core import points, recipes, run_list, runs
from backend.core.errors import Conflict
from backend.core.models import Attempt, Bucket, Device, Point, Role, Run, Worker
from backend.core.outlook import outlook
from backend.core.run_list import Sort, Wanted
from backend.core.settings import Settings
from backend.web import glances
from tests.web.conftest import RECIPE, account, queued_run


def measured(session: Session, run: Run, losses: Sequence[float], name: str = "loss", width: int = 1) -> None:
    """Points and buckets as a journal leaves them."""
    told = [(step * width, value, float(step)) for step, value in enumerate(losses, 1)]
    points.store(session, run.id, {name: told}, beyond=run.step)
    latest = {**run.latest, name: points.word(losses[-1])}
    steps = max(run.step, len(losses) * width)
    session.execute(update(Run).where(Run.id == run.id).values(latest=latest, step=steps, total_steps=steps * 2))
    session.commit()
    session.refresh(run)


# ---- home -----------------------------------------------------------------------------------------------------------


async def test_home_is_drawn_though_a_run_is_claimed_between_the_list_and_the_accelerators(
    admin: httpx.AsyncClient, session: Session
) -> None:
    run = queued_run(session)
    session.add(Worker(name="box", place="here", facts={}))
    session.flush()
    session.add(Device(worker="box", name="cpu", title="A processor", memory_bytes=1 << 34))
    session.commit()
    looked: list[str] = []

    def claim(_connection: object, _cursor: object, statement: str, *_others: object) -> None:
        if "attempts.device" in statement and not looked:
            looked.append(statement)
            runs.claim(session, worker="box", device="cpu", place="here", lease_seconds=60, limits=runs.Limits())
            session.commit()

    event.listen(Engine, "before_cursor_execute", claim)
    try:
        home = await admin.get("/")
    finally:
        event.remove(Engine, "before_cursor_execute", claim)
    assert home.status_code == 200
    assert f'<a class="clip" href="/runs/{run.name}">' in home.text


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_the_rooms_are_drawn_in_both_languages(admin: httpx.AsyncClient, session: Session, language: str) -> None:
    assert (await admin.get(f"/?lang={language}")).status_code == 200
    run = queued_run(session)
    measured(session, run, [2.0, 1.0])
    measured(session, run, [1.5, 1.2], "eval_loss")
    recipes.save(session, "a style", RECIPE, by=None)
    session.commit()
    for path in ("/", "/runs", "/search?q=first", "/search", "/recipes", "/recipes/a style", "/help"):
        answer = await admin.get(path, headers={"accept-language": language})
        assert answer.status_code == 200, path
        assert f'lang="{"zh-CN" if language == "zh" else "en"}"' in answer.text, path


async def test_home_says_in_words_what_is_going_on(admin: httpx.AsyncClient, session: Session) -> None:
    assert "Teach a model from your own rows" in (await admin.get("/")).text
    for name in ("one", "two", "three"):
        queued_run(session, name)
    assert "<h1>Three runs wait</h1>" in (await admin.get("/")).text
    assert runs.claim(session, worker="box", device="cpu", place="here", lease_seconds=60, limits=runs.Limits())
    session.commit()
    assert "<h1>One run is training, two wait</h1>" in (await admin.get("/")).text
    session.execute(update(Run).where(Run.state == "queued").values(state="paused"))
    session.commit()
    page = (await admin.get("/")).text
    assert "<h1>One run is training</h1>" in page
    assert page.count("holds no accelerator") == 2


async def test_a_viewer_is_offered_no_act(viewer: httpx.AsyncClient, session: Session) -> None:
    queued_run(session)
    page = (await viewer.get("/")).text
    assert "/runs/several" not in page
    assert "/runs/several" not in (await viewer.get("/runs")).text
    refused = await viewer.post("/runs/several?act=discard", data={"run": "first"})
    assert refused.status_code == 403


# ---- the list -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", list(Sort))
def test_pages_of_a_list_hold_every_run_once_in_its_order(session: Session, sort: Sort) -> None:
    for at, name in enumerate(["delta", "Alpha", "charlie", "bravo", "echo", "foxtrot", "golf"]):
        run = queued_run(session, name)
        if at < 5:
            measured(session, run, [3.0 - at % 3, math.nan if at == 4 else 2.0 - at % 3])
            measured(session, run, [1.0 + at % 2], "eval_loss")
    whole = [run.name for run in run_list.listing(session, Wanted(sort=sort), limit=50)]
    paged: list[str] = []
    before = None
    while page := run_list.listing(session, Wanted(sort=sort), limit=2, before=before):
        paged += [run.name for run in page]
        before = page[-1].id
    assert paged == whole
    assert len(set(whole)) == 7
    if "loss" in sort:
        assert {"foxtrot", "golf"} <= set(whole[-3:]), "runs without a loss come last, whichever way round"
    if sort == Sort.NAME:
        assert whole[:2] == ["Alpha", "bravo"]


async def test_a_list_is_narrowed_by_state_owner_model_data_and_words(
    admin: httpx.AsyncClient, session: Session
) -> None:
    owner = account(session, Role.MEMBER, "bob")
    queued_run(session, "owl_1", owner)
    paused = queued_run(session, "finch")
    runs.pause(session, paused.id)
    session.commit()

    async def found(query: str) -> set[str]:
        page = (await admin.get(f"/runs?{query}")).text
        listed = {item["name"] for item in (await admin.get(f"/api/v1/runs?{query}")).json()["items"]}
        assert {name for name in ("owl_1", "finch") if f'value="{name}"' in page} == listed
        return listed

    assert await found("state=queued") == {"owl_1"}
    assert await found("owner=BOB") == {"owl_1"}
    assert await found("model=tiny") == {"owl_1", "finch"}
    assert await found("model=other") == set()
    assert await found("data=letters&q=FIN") == {"finch"}
    assert await found("q=L_1") == {"owl_1"}
    assert await found("q=%25") == await found("q=o_l") == set(), "no character stands for others"
    assert (await admin.get("/runs?state=nonsense&sort=nonsense")).status_code == 200
    offered = (await admin.get("/runs")).text
    assert all(f'<option value="{name}"' in offered for name in ("tiny", "bob")), "what there is can be chosen"


async def test_links_of_a_list_change_one_thing_and_keep_the_rest(admin: httpx.AsyncClient, session: Session) -> None:
    queued_run(session)
    page = (await admin.get("/runs?state=queued&q=first&sort=name")).text
    assert 'href="/runs?state=queued&amp;q=first&amp;sort=-name"' in page
    assert 'href="/runs?q=first&amp;sort=name"' in page, "all states"


async def test_a_longer_list_asks_the_database_no_more_often(
    admin: httpx.AsyncClient, app: FastAPI, session: Session
) -> None:
    async def statements(path: str) -> int:
        asked: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            asked.append(statement)

        engine = app.state.studio.engine.sync_engine
        event.listen(engine, "before_cursor_execute", note)
        assert (await admin.get(path)).status_code == 200
        event.remove(engine, "before_cursor_execute", note)
        return len(asked)

    for at in range(3):
        measured(session, queued_run(session, f"run {at}"), [1.0])
    await admin.get("/")  # the first connection asks the server about itself
    few = [await statements(path) for path in ("/runs", "/")]
    for at in range(3, 12):
        measured(session, queued_run(session, f"run {at}"), [1.0])
    assert [await statements(path) for path in ("/runs", "/")] == few


def test_a_glance_keeps_the_best_and_draws_within_its_box(session: Session) -> None:
    run = queued_run(session)
    measured(session, run, [3.0, math.nan, 1.0, 1.2], width=100)
    measured(session, run, [2.0, 0.5, 0.9, 0.9], "eval_loss", width=100)
    glance = glances.glances(session, [run])[run.id]
    assert glance.best == (200, 0.5)
    places = [pair.split() for pair in glance.eval_loss.replace("M", "L").split("L")[1:]]
    assert [float(x) for x, _ in places] == [16.0, 32.0, 48.0, 64.0], "half of its steps fill half of the box"
    assert all(glances.MARGIN <= float(y) <= glances.HEIGHT - glances.MARGIN for _, y in places)


def test_a_long_run_is_drawn_with_few_points_and_keeps_its_best(session: Session) -> None:
    run = queued_run(session)
    losses = [2.0 + math.sin(step / 50) for step in range(3000)]
    losses[1234] = 0.25
    measured(session, run, losses)
    measured(session, run, losses, "eval_loss")
    glance = glances.glances(session, [run])[run.id]
    assert glance.best == (1235, 0.25)
    assert 16 <= glance.loss.count("L") <= 32


def test_a_line_is_drawn_anew_after_each_event(session: Session) -> None:
    run = queued_run(session)
    measured(session, run, [3.0, 2.0])
    before = glances.glances(session, [run])[run.id].loss
    session.query(Point).delete()
    assert glances.glances(session, [run])[run.id].loss == before, "nothing happened that an event told"
    run.seq += 1
    assert glances.glances(session, [run])[run.id].loss == ""
    assert session.query(Bucket).count() > 0


def test_the_time_left_is_the_pace_of_the_last_steps(session: Session) -> None:
    run = queued_run(session)
    measured(session, run, [1.0] * 10)
    late = Point.run_id == run.id, Point.step > 5
    session.execute(update(Point).where(*late).values(at=Point.at + 9000))  # it was paused for hours
    run.state, run.holder, run.lease_until, run.attempt = "training", "box", datetime.now(UTC), 2
    on_box = {"run_id": run.id, "worker": "box", "device": "cpu"}
    session.add(Attempt(**on_box, number=1, ended_at=datetime.now(UTC)))
    session.add(Attempt(**on_box, number=2, base_step=5))
    session.flush()
    assert glances.glances(session, [run])[run.id].seconds_left == 10.0
    assert outlook(session, run).left_seconds == 10.0, "the run's own page says the same"
    run.intent = "keep"
    session.flush()
    assert glances.glances(session, [run])[run.id].seconds_left is None, "its other steps will not be made"


# ---- several at once ------------------------------------------------------------------------------------------------


async def test_an_act_on_several_does_what_can_be_done_and_says_so(member: httpx.AsyncClient, session: Session) -> None:
    other = account(session, Role.MEMBER, "other")
    for name in ("one", "two"):
        queued_run(session, name)
    queued_run(session, "theirs", other)
    form = {"run": ["one", "two", "theirs", "one"]}
    answer = await member.post("/runs/several?act=discard&back=/runs?state%3Dstopped%26run%3Dold", data=form)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/runs?state=stopped&did=discard&run=one&run=two&refused=1"
    told = (await member.get(answer.headers["location"])).text
    assert "Discarded: one, two." in told
    assert "1 run could not be." in told
    assert runs.find(session, "theirs").state == "queued"
    assert (await member.post("/runs/several?act=discard", data={"run": "theirs"})).status_code == 403
    assert (await member.post("/runs/several?act=fly", data={"run": "one"})).status_code == 422
    assert (await member.post("/runs/several?act=pause", data={})).status_code == 422
    away = await member.post("/runs/several?act=restore&back=//evil.example/x", data={"run": "one"})
    assert away.headers["location"].startswith("/?did=restore")


# ---- search ---------------------------------------------------------------------------------------------------------


async def test_a_search_goes_over_everything_with_a_name(
    viewer: httpx.AsyncClient, session: Session, here: Settings, tiny_base: Path
) -> None:
    shutil.copytree(tiny_base, here.folder("models") / "snow-owl")
    for name in ("big owl", "owl 1", "finch"):
        queued_run(session, name)
    recipes.save(session, "Owl style", RECIPE, by=None)
    session.commit()
    found = (await viewer.get("/api/v1/search", params={"q": " oWl "})).json()
    assert [(hit["kind"], hit["name"], hit["address"]) for hit in found] == [
        ("run", "owl 1", "/runs/owl%201"),
        ("run", "big owl", "/runs/big%20owl"),
        ("model", "snow-owl", "/models?model=snow-owl"),
        ("recipe", "Owl style", "/recipes/Owl%20style"),
    ]
    assert found[0]["note"] == "queued"
    assert (await viewer.get("/api/v1/search", params={"q": "%"})).json() == []
    assert (await viewer.get("/api/v1/search", params={"q": "  "})).json() == []
    assert len((await viewer.get("/api/v1/search", params={"q": "owl", "limit": "1"})).json()) == 3
    assert (await viewer.get("/api/v1/search", params={"q": "x" * 101})).status_code == 422


async def test_a_search_is_only_for_people_who_are_signed_in(anonymous: httpx.AsyncClient) -> None:
    assert (await anonymous.get("/api/v1/search?q=owl")).status_code == 401
    assert (await anonymous.get("/search?q=owl")).headers["location"] == "/signin?next=/search%3Fq%3Dowl"


# ---- recipes --------------------------------------------------------------------------------------------------------


async def test_a_recipe_shows_each_version_and_what_it_changed(member: httpx.AsyncClient, session: Session) -> None:
    recipes.save(session, "a style", RECIPE, by=None)
    recipes.save(session, "a style", RECIPE | {"method": {"kind": "lora", "r": 64}}, by=None)
    session.commit()
    newest = (await member.get("/recipes/a style")).text
    assert "<del>16</del> <ins>64</ins>" in newest
    assert "r: 64" in newest
    first = (await member.get("/recipes/a style?version=1")).text
    assert "r: 16" in first
    assert "This is the first version." in first
    assert (await member.get("/recipes/a style?version=7")).status_code == 404
    assert (await member.get("/recipes/none")).status_code == 404


LONG = RECIPE | {"evaluation": {"prompts": ["学" * 8000] * 16}}


async def test_versions_of_long_recipes_come_by_pages_of_eight_mib(member: httpx.AsyncClient, session: Session) -> None:
    for _ in range(25):
        recipes.save(session, "long", LONG, by=None)
    session.commit()
    first = await member.get("/api/v1/recipes/long/versions")
    assert len(first.content) < 9 << 20
    numbers = [each["number"] for each in first.json()]
    behind = (await member.get("/api/v1/recipes/long/versions", params={"before": numbers[-1]})).json()
    assert [*numbers, *(each["number"] for each in behind)] == list(range(25, 0, -1))
    page = (await member.get("/recipes/long?version=2")).text
    assert all(f'/recipes/long?version={number}"' in page for number in range(1, 26))


async def test_long_recipes_are_listed_by_pages_of_eight_mib(member: httpx.AsyncClient, session: Session) -> None:
    for number in range(25):
        recipes.save(session, f"long {number}", LONG, by=None)
    session.commit()
    first = await member.get("/api/v1/recipes?limit=500")
    assert len(first.content) < 9 << 20
    names = [each["name"] for each in first.json()]
    behind = (await member.get("/api/v1/recipes", params={"offset": len(names)})).json()
    assert [*names, *(each["name"] for each in behind)] == [f"long {number}" for number in range(24, -1, -1)]
    page = (await member.get("/recipes")).text
    assert f'href="/recipes?offset={len(names)}"' in page
    assert "/recipes?offset=" not in (await member.get("/recipes", params={"offset": len(names)})).text


def test_a_recipe_takes_a_thousand_versions_and_no_more(session: Session) -> None:
    recipes.save(session, "saved often", RECIPE, by=None).number = recipes.MOST_VERSIONS
    session.flush()
    with pytest.raises(Conflict, match="has 1,000 versions, and takes no more"):
        recipes.save(session, "saved often", RECIPE, by=None)
    assert recipes.version(session, "saved often").number == recipes.MOST_VERSIONS


# ---- the stream -----------------------------------------------------------------------------------------------------


async def test_the_stream_tells_of_runs_that_are_made_after_it_was_opened(served: str, session: Session) -> None:
    headers = account(session, Role.VIEWER).headers
    known = queued_run(session, "known")
    told: list[tuple[str, str]] = []
    async with (
        httpx.AsyncClient(base_url=served, headers=headers, timeout=10) as client,
        client.stream("GET", f"/api/v1/events?latest=1&beyond={known.id}") as stream,
    ):
        async for line in stream.aiter_lines():
            if line == ": open":
                queued_run(session, "made meanwhile")
            if line.startswith("data: {"):
                run = json.loads(line[6:])
                told.append((run["name"], run["state"]))
                if run["state"] == "paused":
                    break
                runs.pause(session, runs.find(session, run["name"]).id)
                session.commit()
    assert told == [("made meanwhile", "queued"), ("made meanwhile", "paused")]


async def test_a_stream_that_follows_nothing_is_refused_in_words(admin: httpx.AsyncClient) -> None:
    refused = await admin.get("/api/v1/events?latest=1")
    assert (refused.status_code, refused.json()["error"]["where"]) == (422, "run")
