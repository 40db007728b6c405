"""What nobody can make the studio do by looking: download, take the whole machine, or fall over strange addresses."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text as sql
from sqlalchemy.orm import Session

from backend.core import hub, limited
from backend.core.errors import Conflict, TooMany
from backend.core.models import Role
from backend.core.settings import Settings
from backend.core.tallies import Tally
from backend.web import fetching
from backend.web.deps import Edge
from backend.web.inspecting import REMEMBERED_TOKENS, ROW_WEIGHT, Marks
from backend.web.phrases import Phrases
from backend.web.turns import MOST_WAITING, Turns
from backend.web.works import EACH, Work, Works
from tests.support.hub import COMMIT, Shelf, hub_in_place
from tests.web.conftest import account, queued_run
from tests.web.test_phrases import CATALOGUE

SLEEPER = "tests.core.limited_functions:sleeps_with_a_child"
ROWS = b'{"instruction": "What eats mice?", "output": "The owl."}\n' * 3


@pytest.fixture
def shelf(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    with hub_in_place(Shelf({"owls/far": tiny_base}), tmp_path / "hf", monkeypatch) as shelf:
        yield shelf


@pytest.fixture
async def animals(here: Settings, member: httpx.AsyncClient, tiny_base: Path) -> httpx.AsyncClient:
    """Somebody with a data set `animals` and a model `tiny`."""
    shutil.copytree(tiny_base, here.folder("models") / "tiny")
    assert (await member.put("/api/v1/datasets/animals?filename=a.jsonl", content=ROWS)).status_code == 201
    return member


@pytest.mark.parametrize("model", ["", "x" * 401, "org/" + "x" * 300, "."])
async def test_whatever_stands_for_a_model_is_answered_in_words(animals: httpx.AsyncClient, model: str) -> None:
    for path in (
        "/api/v1/datasets/animals/preview",
        "/api/v1/datasets/animals/lengths",
        "/datasets/animals",
        "/datasets/animals/preview",
        "/datasets/animals/measured",
        "/runs/new/row?dataset=animals",
    ):
        answer = await animals.get(f"{path}{'&' if '?' in path else '?'}{urlencode({'model': model, 'wait': '1'})}")
        assert answer.status_code < 500, path
    assert (await animals.get(f"/api/v1/models/inspect?{urlencode({'path': model})}")).status_code < 500


@pytest.mark.usefixtures("animals")
async def test_a_number_that_no_table_holds_is_said_to_be_too_large_in_the_description_too(
    admin: httpx.AsyncClient,
) -> None:
    document = (await admin.get("/api/v1/openapi.json")).json()
    for path, name in (
        ("/api/v1/tokens", "offset"),
        ("/api/v1/recipes", "offset"),
        ("/api/v1/people", "offset"),
        ("/api/v1/datasets/{name}/rows", "offset"),
        ("/api/v1/datasets/{name}/rows", "version"),
    ):
        answer = await admin.get(f"{path.format(name='animals')}?{name}={2**40}")
        assert (answer.status_code, "number out of range" in answer.text) == (422, False), path
        told = next(each for each in document["paths"][path]["get"]["parameters"] if each["name"] == name)
        assert "maximum" in str(told["schema"]), path


@pytest.mark.usefixtures("animals")
async def test_every_number_that_is_asked_for_says_how_large_it_may_be(
    admin: httpx.AsyncClient, session: Session
) -> None:
    queued_run(session, "owls")
    document = (await admin.get("/api/v1/openapi.json")).json()
    asked, named = 0, {"name": "animals", "run": "owls", "upload": uuid4(), "recipe": "hoot"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for told in operation.get("parameters", ()):
                if "'integer'" not in str(told["schema"]) or told["in"] == "path":
                    continue
                assert "'maximum'" in str(told["schema"]), (method, path, told["name"])
                address, value = path.format(**named), {told["name"]: str(2**64)}
                query, headers = (value, {}) if told["in"] == "query" else ({}, value)
                answer = await admin.request(method, address, params=query, headers=headers)
                assert answer.status_code in (413, 422), (method, path, told["name"])
                assert "number out of range" not in answer.text, (method, path, told["name"])
                asked += 1
    assert asked > 15


async def test_a_word_is_no_yes_in_json(admin: httpx.AsyncClient) -> None:
    """Else a run would be stopped for good by a `"no"` that nobody understood."""
    for method, path, body in (
        ("POST", "/api/v1/runs/owls/stop", {"keep": "yes"}),
        ("POST", "/api/v1/runs/owls/stop", {"keep": 1}),
        ("PATCH", "/api/v1/workers/a", {"drained": "off"}),
        ("PATCH", "/api/v1/people/ada", {"disabled": "no"}),
        ("PUT", "/api/v1/me/password", {"old": "four quiet words", "new": "five", "revoke_tokens": "n"}),
    ):
        assert (await admin.request(method, path, json=body)).status_code == 422, path


# ---- looking downloads nothing --------------------------------------------------------------------------------------


async def test_a_model_that_is_not_here_is_fetched_neither_by_looking_nor_by_a_preflight(
    shelf: Shelf, animals: httpx.AsyncClient, viewer: httpx.AsyncClient
) -> None:
    for path in (
        "/api/v1/models/inspect?path=owls/far",
        "/api/v1/models/fit?model=owls/far",
        "/api/v1/datasets/animals/preview?model=owls/far",
        "/api/v1/datasets/animals/lengths?model=owls/far",
    ):
        answer = await viewer.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model.not_here"), path
    for path in (
        "/datasets/animals?model=owls/far&wait=1",
        "/datasets/animals/preview?model=owls/far",
        "/datasets/animals/measured?model=owls/far",
        "/runs/new?dataset=animals&model=owls/far",
        "/runs/new/row?dataset=animals&model=owls/far",
    ):
        assert (await viewer.get(path)).status_code == 200, path
    form = {"view": "advanced", "model.path": "owls/far", "data.sets.0.name": "animals", "method.kind": "lora"}
    deep = await animals.post("/runs/preflight?part=deep", data=form)
    assert "There is no model “owls/far” here." in deep.text
    recipe = {"model": "owls/far", "data": {"sets": ["animals"]}, "method": "lora"}
    assert (await animals.post("/api/v1/preflight", json=recipe)).status_code == 404
    assert shelf.asked == []


async def test_a_launch_asks_the_hub_before_it_fetches(shelf: Shelf, animals: httpx.AsyncClient) -> None:
    shelf.gated.add("owls/far")
    recipe = {"model": "owls/far", "data": {"sets": ["animals"]}, "method": "lora"}
    refused = await animals.post("/api/v1/runs", json=recipe)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model.gated")
    shelf.gated.clear()
    assert (await animals.post("/api/v1/runs", json=recipe)).status_code == 201


# ---- a launch of a model that is not here ---------------------------------------------------------------------------


async def test_launches_that_wait_for_their_models_keep_no_other_launch_waiting(
    shelf: Shelf, animals: httpx.AsyncClient, tiny_base: Path
) -> None:
    shelf.models["owls/farther"], shelf.slow_seconds = tiny_base, 1.5
    waiting = [asyncio.create_task(launched(animals, model)) for model in ("owls/far", "owls/farther")]
    await until(lambda: {f"/{model}/resolve/{COMMIT}/model.safetensors" for model in shelf.models} <= set(shelf.asked))
    assert (await asyncio.wait_for(launched(animals, "tiny"), 10)).status_code == 201
    for each in (await animals.get("/api/v1/operations")).json():
        assert (each["kind"], each["state"]) == ("download", "running")
        assert (await animals.post(f"/api/v1/operations/{each['id']}/cancel")).status_code == 200
    answers = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert [(each.status_code, each.json()["error"]["code"]) for each in answers] == [(409, "cancelled")] * 2
    assert len((await animals.get("/api/v1/runs")).json()["items"]) == 1


async def test_the_disk_is_promised_to_one_launch_only(
    shelf: Shelf, animals: httpx.AsyncClient, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.models["owls/farther"], shelf.slow_seconds = tiny_base, 1.5
    needed = hub.look("owls/far").bytes
    assert needed
    free = hub.SPARE_BYTES + needed * 3 // 2
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2 * free, free, free))
    first = asyncio.create_task(launched(animals, "owls/far"))
    await until(lambda: f"/owls/far/resolve/{COMMIT}/model.safetensors" in shelf.asked)
    refused = await asyncio.wait_for(launched(animals, "owls/farther"), 10)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "hub.disk")
    shelf.slow_seconds = 0
    [download] = (await animals.get("/api/v1/operations")).json()
    await animals.post(f"/api/v1/operations/{download['id']}/cancel")
    assert (await asyncio.wait_for(first, 10)).status_code == 409
    assert (await launched(animals, "owls/farther")).status_code == 201


async def test_who_goes_away_while_the_model_comes_finds_the_one_run_by_asking_again(
    shelf: Shelf, animals: httpx.AsyncClient, served: str, session: Session
) -> None:
    shelf.slow_seconds = 0.2
    mine = account(session, Role.MEMBER, "eve").headers | {"origin": served, "idempotency-key": "once"}
    async with httpx.AsyncClient(base_url=served, headers=mine, timeout=30) as eve:
        gone = asyncio.create_task(launched(eve, "owls/far"))
        await until(lambda: f"/owls/far/resolve/{COMMIT}/model.safetensors" in shelf.asked)
        gone.cancel()
        again = [await launched(eve, "owls/far") for _ in range(2)]
    assert [each.status_code for each in again] == [201, 201]
    [run] = (await animals.get("/api/v1/runs")).json()["items"]
    assert {each.json()["id"] for each in again} == {run["id"]}
    assert [each["state"] for each in (await animals.get("/api/v1/operations")).json()] == ["succeeded"]


async def test_a_launch_waits_for_its_model_while_the_database_is_away(
    app: FastAPI, shelf: Shelf, animals: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.slow_seconds, database = 0.2, app.state.studio.pulse.database
    waiting = asyncio.create_task(launched(animals, "owls/far"))
    await until(lambda: f"/owls/far/resolve/{COMMIT}/model.safetensors" in shelf.asked)
    with monkeypatch.context() as patch:
        patch.setattr(database, "ask", refuses)
        await until(lambda: database.is_away)
        await asyncio.sleep(1.5 * fetching.LOOK_SECONDS)
    await until(lambda: not database.is_away)
    assert (await asyncio.wait_for(waiting, 30)).status_code == 201


async def refuses() -> None:
    raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


async def test_a_download_that_fails_is_told_by_the_launch_that_waited_for_it(
    shelf: Shelf, animals: httpx.AsyncClient
) -> None:
    shelf.redirects[f"/owls/far/resolve/{COMMIT}/model.safetensors"] = "http://127.0.0.2:9/elsewhere"
    answer = await launched(animals, "owls/far")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "hub.inward")
    [download] = (await animals.get("/api/v1/operations")).json()
    assert (download["state"], download["error"]["message"]) == ("failed", answer.json()["error"]["message"])


async def test_a_fetched_model_that_cannot_be_used_is_told_as_often_as_it_is_launched(
    shelf: Shelf, animals: httpx.AsyncClient, tiny_base: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "spoiled"))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    shelf.models["owls/spoiled"] = folder
    for _ in range(2):
        refused = await launched(animals, "owls/spoiled")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "model.refused")


async def test_a_launch_that_waits_ends_with_the_studio_and_its_download_stands(
    app: FastAPI, shelf: Shelf, animals: httpx.AsyncClient
) -> None:
    shelf.slow_seconds = 1.5
    waiting = asyncio.create_task(launched(animals, "owls/far"))
    await until(lambda: f"/owls/far/resolve/{COMMIT}/model.safetensors" in shelf.asked)
    app.state.studio.operations.closing.set()
    answer = await asyncio.wait_for(waiting, 10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert [each["state"] for each in (await animals.get("/api/v1/operations")).json()] == ["running"]


async def launched(client: httpx.AsyncClient, model: str) -> httpx.Response:
    recipe = {"model": model, "data": {"sets": ["animals"]}, "method": "lora"}
    return await client.post("/api/v1/runs", json=recipe)


async def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


# ---- nobody takes the whole machine ---------------------------------------------------------------------------------


async def test_a_head_to_look_at_is_bounded_whatever_the_headers_say(member: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1 << 20
            yield b"x" * (1 << 20)

    answer = await member.post(
        "/api/v1/datasets/probe?filename=a.jsonl&size=1", content=endless(), headers={"idempotency-key": "once"}
    )
    assert answer.status_code == 413
    assert sent <= 4 << 20


async def test_what_is_read_for_a_page_ends_with_the_studio(
    app: FastAPI, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited, "PACKAGES", ("tests.",))
    studio = app.state.studio
    edge = Edge(studio, account(session, Role.VIEWER).identity, 200, "", "")
    reading = asyncio.create_task(edge.apart(limited.run_limited, SLEEPER, {}))
    await asyncio.sleep(0.5)
    studio.operations.closing.set()
    with pytest.raises(Conflict, match="cancelled"):
        await asyncio.wait_for(reading, 10)


async def test_one_person_has_a_few_turns_and_leaves_the_others_theirs() -> None:
    turns, ada, bob, going = Turns(at_once=3, each=2), uuid4(), uuid4(), []
    leave = asyncio.Event()

    async def take(person: object, name: str) -> None:
        async with turns.of(person):  # type: ignore[arg-type]
            going.append(name)
            await leave.wait()

    tasks = [asyncio.create_task(take(ada, f"ada {n}")) for n in range(MOST_WAITING)]
    await asyncio.sleep(0.01)
    tasks.append(asyncio.create_task(take(bob, "bob")))
    await asyncio.sleep(0.01)
    assert going == ["ada 0", "ada 1", "bob"]
    with pytest.raises(TooMany):
        await take(ada, "one too many")
    leave.set()
    await asyncio.gather(*tasks)
    assert len(going) == MOST_WAITING + 1
    assert turns._own == {}, "nobody is remembered who waits for nothing"


async def test_work_for_one_person_waits_its_turn_and_keeps_nobody_else_waiting() -> None:
    tasks: list[asyncio.Task[None]] = []
    works = Works(lambda work: tasks.append(asyncio.create_task(work)))
    ada, bob, ended, begun = uuid4(), uuid4(), threading.Event(), []

    async def ask(name: str, person: UUID) -> Work | None:
        def work(_: Work) -> None:
            begun.append(name)
            ended.wait(10)

        return await works.soon(name, work, 0.01, person)

    for _ in range(2):  # a page asks again and again, and begins nothing twice
        assert all([await ask(f"ada {n}", ada) for n in range(EACH + 3)])
    assert await ask("bob", bob)
    assert begun == [*(f"ada {n}" for n in range(EACH)), "bob"]
    ended.set()
    await asyncio.gather(*tasks)
    assert len(begun) == EACH + 4
    assert works.running == {}, "what is over is forgotten"


async def test_a_full_disk_that_postgres_meets_is_told_as_one(member: httpx.AsyncClient, session: Session) -> None:
    """It calls that an operation that failed, as it does when it is away."""
    refuse = "BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END"
    session.execute(sql(f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ {refuse} $$"))
    session.execute(sql("CREATE TRIGGER full_disk BEFORE INSERT ON datasets EXECUTE FUNCTION full_disk()"))
    session.commit()
    answer = await member.put("/api/v1/datasets/animals?filename=a.jsonl", content=ROWS)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["message"]) == (507, "disk_full", "The disk is full.")


async def test_work_that_ends_in_an_error_of_ours_is_told_and_not_begun_again_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks: list[asyncio.Task[None]] = []
    works = Works(lambda work: tasks.append(asyncio.create_task(work)))

    def full(_: Work) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def broken(_: Work) -> None:
        raise ZeroDivisionError

    told = [await works.soon(work, work, None, uuid4()) for work in (full, broken)]
    failures = [work.failure for work in told if work and work.failure]
    assert [(failure.status, failure.code) for failure in failures] == [(507, "disk_full"), (500, "internal")]
    assert "ZeroDivisionError" in caplog.text
    await asyncio.gather(*tasks)


async def test_failures_that_nobody_comes_back_for_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.web.works.FAILURES_KEPT", 3)
    tasks: list[asyncio.Task[None]] = []
    works = Works(lambda work: tasks.append(asyncio.create_task(work)))

    def fail(_: Work) -> None:
        time.sleep(0.02)
        raise Conflict("No.")

    for n in range(10):
        await works.soon(n, fail, 0.0, uuid4())
    await asyncio.gather(*tasks)
    assert len(works.running) == 3


def test_an_archive_of_very_many_archives_is_not_counted_for_long() -> None:
    tally = Tally("a.jsonl.gz")
    began = time.perf_counter()
    tally.add(gzip.compress(b"{}\n") + gzip.compress(b"") * 40_000)
    assert time.perf_counter() - began < 1
    assert tally.rows is None, "it is left to the reading"


def test_rows_that_are_refused_are_forgotten_like_others() -> None:
    marks = Marks()
    for place in range(REMEMBERED_TOKENS // ROW_WEIGHT + 500):
        marks.put(("data", place), {"problem": {"message": "no answer"}})
    assert marks.get(("data", 0)) is None
    assert marks.get(("data", place)) is not None


async def test_a_person_has_so_many_unfinished_uploads_and_no_more(
    member: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.web.api.uploads.UNFINISHED", 2)
    headers = {"upload-length": "9", "upload-metadata": f"dataset {base64.b64encode(b'owls').decode()}"}
    first, _ = [await member.post("/api/v1/uploads", headers=headers) for _ in range(2)]
    refused = await member.post("/api/v1/uploads", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "upload.unfinished")
    assert (await member.delete(first.headers["location"])).status_code == 204
    assert (await member.post("/api/v1/uploads", headers=headers)).status_code == 201


# ---- strange addresses and forms ------------------------------------------------------------------------------------

FORMS = ("/runs/preflight", "/runs/recipe", "/runs")
DEEP, LONG = "a." * 5000 + "b", "9" * 5000


SETTINGS = (
    {DEEP: "1"},
    {f"data.{DEEP}": "1"},
    {f"data.sets.{LONG}.name": "animals"},
    {"data.sets": "animals", "data.sets.0.name": "animals"},
    {"method.kind.x": "1"},
    {"stage.kind.x": "1"},
    {"training.max_steps": LONG},
    {"training.learning_rate": "1e999"},
    {"model.path.x": "tiny"},
    {"evaluation.prompts.0.1": "x"},
    {"name.x": "1"},
    {"model": "a\0b"},
    {"dataset": "a\0b"},
    {"clone": "a\0b"},
    {"recipe": "a\0b"},
)
YAMLS = (
    "model: tiny\ndata: {sets: [animals]}\nmethod: {kind: [1]}\n",
    "model: tiny\ndata: {sets: [animals]}\nmethod: {kind: {a: 1}}\n",
    f"model: tiny\ndata: {{sets: [animals], {LONG}: 1}}\n",
    "model: tiny\ndata: {sets: [animals]}\n" + "".join(f"{' ' * n}a:\n" for n in range(900)),
    "model: tiny\ndata: {sets: animals}\nevaluation: {prompts: 3}\n",
    "model: tiny\ndata: [1]\nevaluation: 7\n",
    "- 1\n",
    '{"\\ud800": 1}',
    'model: "\\ud800"\ndata: {sets: [animals]}\n',
)
PATHS = (
    f"/compare?run=a&run=b&at={LONG}",
    f"/compare?prompt={LONG}",
    f"/runs?before={LONG}",
    f"/runs?did=restore&run=x&refused={LONG}",
    f"/datasets/animals/compare?before={LONG}&after=-1",
    f"/datasets/animals?row={LONG}&open={LONG}&version={LONG}",
    f"/recipes/none?version={LONG}",
    f"/settings/audit?person={LONG}&action=%00",
    "/api/v1/search?q=%00",
    "/search?q=%00",
    "/runs?q=%00&owner=%00&model=%00",
    "/models?q=%00&model=%00&on=%00",
    f"/runs/{'x' * 9000}",
    f"/api/v1/runs/none/metrics?names={'x' * 1900}&from={LONG}",
)


async def test_no_address_form_or_yaml_breaks_a_page(animals: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    """Whatever is sent is refused in words, or taken for unsaid; it is never our own fault."""
    asked: list[tuple[httpx.AsyncClient, str, str, dict[str, str]]] = [(admin, "GET", path, {}) for path in PATHS]
    for settings in SETTINGS:
        form = {
            "view": "advanced",
            "dataset": "animals",
            "data.sets.0.name": "animals",
            "model.path": "tiny",
        } | settings
        asked.append((animals, "GET", f"/runs/new?{urlencode(form)}", {}))
        asked += [(animals, "POST", path, form) for path in ("/runs/new?view=yaml", *FORMS)]
    for yaml in YAMLS:
        form = {"view": "yaml", "yaml": yaml, "save_as": "strange"}
        asked += [(animals, "POST", path, form) for path in ("/runs/new?view=advanced", "/runs/new?take=4", *FORMS)]
    answers = [await who.request(method, path, data=form) for who, method, path, form in asked]
    broken = [each for each, answer in zip(asked, answers, strict=True) if answer.status_code >= 500]
    assert [f"{method} {path[:99]} {form!s:.99}" for _, method, path, form in broken] == []


def test_a_text_that_fits_a_sentence_in_very_many_ways_takes_no_time() -> None:
    said = Phrases(CATALOGUE).said
    began = time.perf_counter()
    for text in (
        "“” is ”" * 9000,
        "There is no run “" * 4000,
        "There is no run “" + "“” is ”" * 280 + "”.",
        ": " * 30_000,
    ):
        assert said(text)
    assert time.perf_counter() - began < 1.5
    assert said("There is no run “" * 20 + "”." * 20).startswith("没有训练“没有训练“")


async def test_texts_that_are_no_unicode_are_refused_in_words(admin: httpx.AsyncClient) -> None:
    half = json.dumps("\ud800")
    for path, body in (
        ("/api/v1/recipes", f'{{"name": {half}, "recipe": {{}}}}'),
        ("/api/v1/recipes", f'{{"name": "fine", "recipe": {{"name": {half}}}}}'),
        ("/api/v1/people", f'{{"name": {half}}}'),
        ("/api/v1/tokens", f'{{"name": {half}}}'),
        ("/api/v1/models/download", f'{{"id": {half}}}'),
        ("/api/v1/preflight", f'{{"model": {half}, "data": {{"sets": [{half}]}}}}'),
    ):
        answer = await admin.post(path, content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, path
