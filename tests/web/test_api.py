"""The API from a file to a downloaded zip, as a program uses it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import itertools
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.commands.access import Access, make_token
from backend.commands.client import Client
from backend.core import people, points
from backend.core.assignment import LineKind
from backend.core.errors import StudioError
from backend.core.models import Artifact, Audit, Repeat, Role, Run
from backend.core.settings import Settings
from backend.web.app import create_app
from backend.web.reference import document
from tests.support.artifacts import publish
from tests.support.showcase import Shipper
from tests.web.conftest import account, client_of, queued_run

ROWS = "".join(json.dumps({"instruction": f"say {n}", "output": f"{n}!"}) + "\n" for n in range(30)).encode()


@pytest.fixture
def tiny(here: Settings, tiny_base: Path) -> str:
    """The name of a tiny base model under the model roots."""
    shutil.copytree(tiny_base, here.folder("models") / "tiny")
    return "tiny"


async def test_a_file_becomes_a_data_set_in_versions(member: httpx.AsyncClient) -> None:
    made = await member.put("/api/v1/datasets/numbers?filename=n.jsonl", content=ROWS)
    assert made.status_code == 201, made.text
    assert (made.json()["version"]["rows"], made.json()["version"]["format"]) == (30, "alpaca")
    again = await member.put("/api/v1/datasets/numbers", content=ROWS)
    assert again.json()["versions"] == 1
    more = await member.put("/api/v1/datasets/numbers", content=ROWS + ROWS.replace(b"say", b"tell"))
    assert more.json()["versions"] == 2
    page = (await member.get("/api/v1/datasets/numbers/rows?version=1&offset=28")).json()
    assert (len(page["rows"]), page["total"], page["rows"][0]["number"]) == (2, 30, 29)
    assert [each["name"] for each in (await member.get("/api/v1/datasets")).json()] == ["numbers"]


async def test_what_reading_a_version_found_is_told_of_one_and_of_the_others_what_lists_show(
    member: httpx.AsyncClient,
) -> None:
    await member.put("/api/v1/datasets/numbers", content=ROWS)
    await member.put("/api/v1/datasets/numbers", content=ROWS + ROWS.replace(b"say", b"tell"))
    newest = (await member.get("/api/v1/datasets/numbers")).json()
    first = (await member.get("/api/v1/datasets/numbers?version=1")).json()
    assert (newest["version"]["number"], first["version"]["number"]) == (2, 1)
    assert newest["version"]["facts"]["rows"] == 2 * first["version"]["facts"]["rows"]
    assert (
        newest["history"]
        == first["history"]
        == [{key: value for key, value in each["version"].items() if key != "facts"} for each in (newest, first)]
    )
    assert (await member.get("/api/v1/datasets/numbers?version=3")).status_code == 404


async def test_a_page_of_long_rows_says_where_to_go_on(member: httpx.AsyncClient) -> None:
    rows = [{"instruction": f"say {n}", "output": "a" * (3 << 20)} for n in range(4)]
    await member.put("/api/v1/datasets/long", content="".join(json.dumps(row) + "\n" for row in rows).encode())
    first = (await member.get("/api/v1/datasets/long/rows?limit=200")).json()
    assert ([row["number"] for row in first["rows"]], first["total"], first["next"]) == ([1, 2], 4, 2)
    last = (await member.get(f"/api/v1/datasets/long/rows?limit=200&offset={first['next']}")).json()
    assert ([row["number"] for row in last["rows"]], last["next"]) == ([3, 4], None)
    behind = (await member.get("/api/v1/datasets/long/rows?offset=4")).json()
    assert (behind["rows"], behind["next"]) == ([], None)


async def test_a_page_of_samples_says_where_to_go_on(viewer: httpx.AsyncClient, session: Session) -> None:
    queued_run(session)
    told = {"index": 0, "prompt": "Who?", "text": "a" * (3 << 20), "tokens": 5, "finish": "stop"}
    Shipper(session).ship(LineKind.SAMPLE, [0, 10, 20, 30], lambda _: told)
    newest = (await viewer.get("/api/v1/runs/first/samples?limit=200")).json()
    assert ([each["step"] for each in newest["samples"]], newest["next"]) == ([30, 20, 10], 9)
    older = (await viewer.get(f"/api/v1/runs/first/samples?to={newest['next']}")).json()
    assert ([each["step"] for each in older["samples"]], older["next"]) == ([0], None)
    narrowed = (await viewer.get("/api/v1/runs/first/samples?from=5&to=25&limit=1")).json()
    assert ([each["step"] for each in narrowed["samples"]], narrowed["next"]) == ([20], 19)


def test_the_commands_read_all_samples_page_by_page(served: str, session: Session, here: Settings) -> None:
    queued_run(session)
    told = {"index": 0, "prompt": "Who?", "text": "An owl.", "tokens": 5, "finish": "stop"}
    Shipper(session).ship(LineKind.SAMPLE, range(120), lambda _: told)
    with Client(Access(served, make_token(here.database_url))) as client:
        assert [each.step for each in client.samples("first")] == list(range(120))


async def test_a_bad_file_is_refused_with_every_row(member: httpx.AsyncClient) -> None:
    bad = ROWS + b'{"instruction": "no answer"}\n{broken\n'
    answer = await member.put("/api/v1/datasets/numbers", content=bad)
    assert answer.status_code == 422
    told = " ".join(problem["where"] for problem in answer.json()["error"]["problems"])
    assert "31" in told
    assert "32" in told
    assert (await member.get("/api/v1/datasets/numbers")).status_code == 404
    skipped = await member.put("/api/v1/datasets/numbers?skip_bad_rows=true", content=bad)
    assert skipped.json()["version"]["rows"] == 30


async def test_a_deleted_data_set_comes_back(member: httpx.AsyncClient, app: FastAPI, session: Session) -> None:
    await member.put("/api/v1/datasets/numbers", content=ROWS)
    async with client_of(app, account(session, Role.MEMBER, "other").headers) as other:
        assert (await other.delete("/api/v1/datasets/numbers")).status_code == 403
        assert (await other.put("/api/v1/datasets/numbers", content=ROWS)).status_code == 403
    assert (await member.delete("/api/v1/datasets/numbers")).status_code == 204
    assert (await member.get("/api/v1/datasets/numbers")).status_code == 404
    assert (await member.post("/api/v1/datasets/numbers/restore")).json()["name"] == "numbers"


async def test_an_upload_in_pieces_goes_on_where_it_broke_off(member: httpx.AsyncClient) -> None:
    words = {"dataset": "numbers", "filename": "n.jsonl"}
    metadata = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in words.items())
    begun = await member.post("/api/v1/uploads", headers={"upload-length": str(len(ROWS)), "upload-metadata": metadata})
    place = begun.headers["location"]
    piece = {"content-type": "application/offset+octet-stream"}
    first = await member.patch(place, content=ROWS[:100], headers=piece | {"upload-offset": "0"})
    assert (first.status_code, first.headers["upload-offset"]) == (204, "100")
    assert (await member.patch(place, content=b"x", headers=piece | {"upload-offset": "7"})).status_code == 409
    at = int((await member.head(place)).headers["upload-offset"])
    last = await member.patch(place, content=ROWS[at:], headers=piece | {"upload-offset": str(at)})
    assert (await member.get(last.headers["location"])).json()["version"]["rows"] == 30
    assert (await member.head(place)).headers["location"] == last.headers["location"]


async def test_a_large_file_is_read_in_the_background(
    member: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.web.api.datasets.MIB", 0)  # so that every file counts as large
    answer = await member.put("/api/v1/datasets/numbers", content=ROWS)
    assert answer.status_code == 202
    operation: dict[str, Any] = answer.json()
    while operation["state"] == "running":
        await asyncio.sleep(0.05)
        operation = (await member.get(answer.headers["location"])).json()
    assert (operation["state"], operation["result"]["dataset"]) == ("succeeded", "numbers")
    assert (await member.post(f"{answer.headers['location']}/cancel")).status_code == 409


@pytest.mark.parametrize("body", ['{"model": ' + "9" * 5000 + "}", '{"model": NaN}', "[" * 100_000, "{"])
async def test_a_recipe_that_is_no_json_is_refused_in_words(member: httpx.AsyncClient, body: str) -> None:
    for route in ("/api/v1/preflight", "/api/v1/runs"):
        answer = await member.post(route, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


async def test_from_a_file_to_a_run_in_the_queue(member: httpx.AsyncClient, tiny: str, session: Session) -> None:
    await member.put("/api/v1/datasets/numbers", content=ROWS)
    shown = await member.get(f"/api/v1/datasets/numbers/preview?model={tiny}&limit=2")
    assert shown.status_code == 200, shown.text
    first = shown.json()["rows"][0]
    assert first["trained_tokens"] == sum(piece["trained"] for piece in first["pieces"]) > 1
    assert "0!" in "".join(piece["text"] for piece in first["pieces"] if piece["trained"])
    recipe = f"model: {tiny}\ndata:\n  sets: [numbers]\nmethod: lora\ntraining:\n  max_steps: 2\n"
    yaml = {"content-type": "application/yaml"}
    checked = (await member.post("/api/v1/preflight", content=recipe, headers=yaml)).json()
    assert (checked["problems"], checked["steps"]["total"]) == ([], 2)
    made = await member.post("/api/v1/runs", content=recipe, headers=yaml | {"idempotency-key": "one"})
    assert made.status_code == 201, made.text
    assert (made.json()["state"], made.json()["data"]) == ("queued", ["numbers v1"])
    again = await member.post("/api/v1/runs", content=recipe, headers=yaml | {"idempotency-key": "one"})
    assert (again.status_code, again.json()["id"]) == (201, made.json()["id"])
    other = await member.post("/api/v1/runs", content=recipe + " ", headers=yaml | {"idempotency-key": "one"})
    assert other.status_code == 409
    assert len(session.scalars(select(Run)).all()) == 1
    name = made.json()["name"]
    changes = {"changes": {"training": {"learning_rate": 1e-4}}}
    clone = (await member.post(f"/api/v1/runs/{name}/clone", json=changes)).json()
    assert (clone["parent"], clone["recipe"]["training"]["learning_rate"]) == (name, 1e-4)
    amended = {"field": "training.learning_rate", "value": 5e-5}
    assert (await member.post(f"/api/v1/runs/{name}/amendments", json=amended)).json()["step"] is None
    later = (await member.post(f"/api/v1/runs/{name}/clone", json={"changes": {}})).json()
    assert later["recipe"]["training"]["learning_rate"] == 5e-5, "a clone starts from the recipe as it was changed"
    assert (await member.post("/api/v1/recipes", json={"name": "mine", "recipe": later["recipe"]})).status_code == 201
    launched = await member.post("/api/v1/recipes/mine/launch")
    assert (launched.status_code, launched.json()["recipe"]["training"]["learning_rate"]) == (201, 5e-5), launched.text
    assert (await member.post(f"/api/v1/runs/{name}/stop", json={"keep": False})).json()["state"] == "stopped"
    assert "stopped" in (await member.get(f"/api/v1/runs/{name}/log")).text


async def test_a_recipe_that_cannot_be_launched_is_told_whole(member: httpx.AsyncClient) -> None:
    bad = {"model": "tiny", "data": {"sets": ["none"]}, "method": {"kind": "lora", "lora_alhpa": 3, "r": 0}}
    answer = (await member.post("/api/v1/runs", json=bad)).json()["error"]
    assert {problem["where"] for problem in answer["problems"]} == {"method.lora_alhpa", "method.r"}
    assert "lora_alpha" in json.dumps(answer)
    for body, kind in (
        ("a: [1", "application/yaml"),
        ('{"a": NaN}', "application/json"),
        ("[" * 90_000, "application/json"),
    ):
        refused = await member.post("/api/v1/runs", content=body, headers={"content-type": kind})
        assert refused.status_code in (400, 422), refused.text


async def test_recipes_are_saved_in_versions(member: httpx.AsyncClient) -> None:
    recipe: dict[str, Any] = {"model": "tiny", "data": {"sets": ["a"]}, "method": "full"}
    saved = await member.post("/api/v1/recipes", json={"name": "mine", "recipe": recipe})
    assert (saved.status_code, saved.json()["versions"]) == (201, 1)
    recipe["training"] = {"max_steps": 9}
    assert (await member.post("/api/v1/recipes", json={"name": "mine", "recipe": recipe})).json()["versions"] == 2
    versions = (await member.get("/api/v1/recipes/mine/versions")).json()
    assert [each["body"]["training"]["max_steps"] for each in versions] == [9, -1]
    assert (await member.delete("/api/v1/recipes/mine")).status_code == 204
    assert (await member.get("/api/v1/recipes")).json() == []


def published(session: Session, here: Settings, run: Run) -> Artifact:
    """An adapter of two files."""

    def write(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 1000)
        (folder / "README.md").write_text("# Adapter\n")

    return publish(session, here, run, "adapter", write)


async def test_an_artifact_is_downloaded_whole_and_in_ranges(
    viewer: httpx.AsyncClient, session: Session, here: Settings
) -> None:
    run = queued_run(session, "first run")
    row = published(session, here, run)
    (listed,) = (await viewer.get("/api/v1/runs/first run/artifacts")).json()
    assert (listed["sha256"], listed["kind"]) == (row.sha256, "adapter")
    whole = await viewer.get(listed["download"])
    assert whole.headers["x-checksum-sha256"] == row.sha256
    assert "attachment" in whole.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2
    length, etag = len(whole.content), whole.headers["etag"]
    head = await viewer.head(listed["download"])
    assert (int(head.headers["content-length"]), head.content) == (length, b"")
    cuts = [0, 1, 777, 100_000, length]
    parts = [
        await viewer.get(listed["download"], headers={"range": f"bytes={start}-{end - 1}", "if-range": etag})
        for start, end in itertools.pairwise(cuts)
    ]
    assert {part.status_code for part in parts} == {206}
    assert b"".join(part.content for part in parts) == whole.content
    tail = await viewer.get(listed["download"], headers={"range": "bytes=-5"})
    assert tail.content == whole.content[-5:]
    beyond = await viewer.get(listed["download"], headers={"range": f"bytes={length}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{length}")
    stale = await viewer.get(listed["download"], headers={"range": "bytes=0-1", "if-range": '"old"'})
    assert (stale.status_code, len(stale.content)) == (200, length)
    assert (await viewer.get(listed["download"], headers={"if-none-match": etag})).status_code == 304
    assert (await viewer.get(listed["download"], headers={"range": "nonsense"})).status_code == 200


async def test_an_artifacts_files_are_downloaded_one_by_one(
    viewer: httpx.AsyncClient, session: Session, here: Settings
) -> None:
    row = published(session, here, queued_run(session))
    for file in row.files:
        path = f"/api/v1/artifacts/{row.id}/files/{file['name']}"
        whole = await viewer.get(path)
        assert hashlib.sha256(whole.content).hexdigest() == whole.headers["x-checksum-sha256"] == file["sha256"]
        assert "attachment" in whole.headers["content-disposition"]
        etag = whole.headers["etag"]
        part = await viewer.get(path, headers={"range": "bytes=2-4", "if-range": etag})
        assert (part.status_code, part.content) == (206, whole.content[2:5])
        changed = await viewer.get(path, headers={"range": "bytes=2-4", "if-range": '"old"'})
        assert (changed.status_code, changed.content) == (200, whole.content)
        head = await viewer.head(path)
        assert (int(head.headers["content-length"]), head.content) == (file["bytes"], b"")
        assert (await viewer.get(path, headers={"if-none-match": etag})).status_code == 304
    (here.root / row.folder / "beside.txt").write_text("not listed")
    for name in ("beside.txt", "../adapter/README.md", "%2e%2e/x", "", "model.safetensors/"):
        assert (await viewer.get(f"/api/v1/artifacts/{row.id}/files/{name}")).status_code == 404


@pytest.mark.parametrize("name", ["../../../../../secret", "link", "/etc/hostname"])
async def test_an_artifact_gives_away_nothing_beside_its_run_whatever_a_trainer_lists(
    viewer: httpx.AsyncClient, session: Session, here: Settings, name: str
) -> None:
    row = published(session, here, queued_run(session))
    (here.root / "secret").write_text("canary")
    (here.root / row.folder / "link").symlink_to(here.root / "secret")
    row.files = [row.files[0] | {"name": name}]
    session.commit()
    for path in ("download", f"files/{quote(name, safe='')}"):
        answer = await viewer.get(f"/api/v1/artifacts/{row.id}/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "artifact.unreachable")


async def test_a_proxy_in_front_may_send_the_files(session: Session, here: Settings) -> None:
    row = published(session, here, queued_run(session))
    app = create_app(here.model_copy(update={"accel_prefix": "/studio-files"}))
    async with app.router.lifespan_context(app), client_of(app, account(session, Role.VIEWER).headers) as viewer:
        answer = await viewer.get(f"/api/v1/artifacts/{row.id}/files/README.md")
        async with client_of(app) as anonymous:
            refused = await anonymous.get(f"/api/v1/artifacts/{row.id}/files/README.md")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["x-accel-redirect"] == f"/studio-files/{row.folder}/README.md"
    assert (refused.status_code, "x-accel-redirect" in refused.headers) == (401, False)


async def test_files_on_another_host_are_told_in_words(
    viewer: httpx.AsyncClient, session: Session, here: Settings
) -> None:
    row = published(session, here, queued_run(session))
    (here.root / row.folder / "README.md").unlink()
    answer = await viewer.get(f"/api/v1/artifacts/{row.id}/download")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "artifact.unreachable")


async def test_curves_are_read_with_values_that_json_has_no_word_for(
    viewer: httpx.AsyncClient, session: Session
) -> None:
    run = queued_run(session)
    values = [(1, 6.0), (2, float("nan")), (3, 5.0)]
    points.store(session, run.id, {"loss": [(step, value, 0.0) for step, value in values]}, beyond=0)
    session.commit()
    answer = (await viewer.get("/api/v1/runs/first/metrics?names=loss&from=2")).json()
    assert (answer["curves"], answer["seq"]) == ({"loss": [[2, "NaN"], [3, 5.0]]}, 1)


async def test_lists_are_paged(viewer: httpx.AsyncClient, session: Session) -> None:
    for number in range(5):
        queued_run(session, f"run {number}")
    first = (await viewer.get("/api/v1/runs?limit=3")).json()
    rest = (await viewer.get(f"/api/v1/runs?limit=3&before={first['next']}")).json()
    assert [run["name"] for run in first["items"] + rest["items"]] == [f"run {n}" for n in (4, 3, 2, 1, 0)]
    assert rest["next"] is None


async def test_one_changes_ones_own_language_and_password(session: Session, member: httpx.AsyncClient) -> None:
    assert (await member.patch("/api/v1/me", json={"language": "zh"})).json()["language"] == "zh"
    assert 'lang="zh-CN"' in (await member.get("/help")).text
    user = people.find(session, "the member")
    user.password_hash = people.hash_password("four quiet words")
    session.commit()
    wrong = await member.put("/api/v1/me/password", json={"old": "no", "new": "four other words"})
    assert wrong.status_code == 403
    failed = select(Audit.person).where(Audit.action == "person.password.failed")
    assert session.scalars(failed).all() == ["the member"]  # somebody may sit at their open browser
    done = await member.put("/api/v1/me/password", json={"old": "four quiet words", "new": "four other words"})
    assert done.status_code == 204
    session.refresh(user)
    assert people.password_matches("four other words", user.password_hash)


async def test_a_token_is_listed_and_revoked(member: httpx.AsyncClient, app: FastAPI) -> None:
    made = (await member.post("/api/v1/tokens", json={"name": "ci"})).json()
    async with client_of(app, {"authorization": f"Bearer {made['token']}"}) as program:
        assert (await program.get("/api/v1/me")).status_code == 200
        assert (await member.delete(f"/api/v1/tokens/{made['id']}")).status_code == 204
        assert (await program.get("/api/v1/me")).status_code == 401


async def test_the_secret_of_a_token_is_not_kept_for_a_repeat(member: httpx.AsyncClient, session: Session) -> None:
    key = {"idempotency-key": "one"}
    made = [(await member.post("/api/v1/tokens", json={"name": "ci"}, headers=key)).json()["token"] for _ in range(2)]
    assert made[0] != made[1]
    assert session.scalars(select(Repeat)).all() == []


async def test_the_same_request_at_once_does_its_work_once(member: httpx.AsyncClient) -> None:
    body = {"name": "mine", "recipe": {"model": "tiny", "data": {"sets": ["a"]}}}
    key = {"idempotency-key": "one"}
    answers = await asyncio.gather(*(member.post("/api/v1/recipes", json=body, headers=key) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["versions"] for answer in answers} == {1}
    assert (await member.get("/api/v1/recipes/mine")).json()["versions"] == 1


async def test_the_description_of_the_api_is_valid_and_complete(app: FastAPI, viewer: httpx.AsyncClient) -> None:
    described = (await viewer.get("/api/v1/openapi.json")).json()
    validate(described)
    assert described == json.loads(json.dumps(document(app)))
    ids = []
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            ids.append(operation["operationId"])
            assert operation["tags"], path
            for status in ("401", "404", "422", "500"):
                assert "ErrorOut" in json.dumps(operation["responses"][status]), (method, path, status)
    assert len(ids) == len(set(ids)) > 40
    for needed in ("put", "get", "delete"):
        assert needed in described["paths"]["/api/v1/datasets/{name}"]


async def test_what_is_kept_for_a_repeat_does_not_give_a_password_away(
    admin: httpx.AsyncClient, session: Session
) -> None:
    person = {"name": "ada", "password": "four words of mine"}
    key = {"idempotency-key": "0199-a-random-one"}
    made = [(await admin.post("/api/v1/people", json=person, headers=key)).json() for _ in range(2)]
    assert made[0] == made[1]
    row = session.scalars(select(Repeat)).one()
    body = httpx.Request("POST", "/", json=person).content
    guess = hashlib.sha256(b"\0".join((b"POST", b"/api/v1/people?", body))).hexdigest()
    assert guess not in row.fingerprint
    assert key["idempotency-key"] not in row.key


async def test_every_body_is_described_with_an_example(viewer: httpx.AsyncClient) -> None:
    described = (await viewer.get("/api/v1/openapi.json")).json()
    shapes = described["components"]["schemas"]
    bodies = 0
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if content["schema"].get("format") == "binary":
                    continue
                shape = shapes.get(content["schema"].get("$ref", "").rpartition("/")[2], {})
                assert "example" in content or "examples" in json.dumps(shape), (method, path)
                bodies += 1
    assert bodies > 8


async def test_the_reference_page_takes_nothing_from_outside(viewer: httpx.AsyncClient) -> None:
    page = await viewer.get("/api/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    assert "http://" not in page.text


async def test_a_method_that_an_address_lacks_is_answered_with_those_that_it_has(admin: httpx.AsyncClient) -> None:
    answer = await admin.delete("/api/v1/runs")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"
    assert (await admin.get("/api/v1/runs/any/pause")).headers["allow"] == "POST"


async def test_every_error_that_there_is_has_its_status_in_the_description(app: FastAPI) -> None:
    described = document(app)["paths"]["/api/v1/runs"]["post"]["responses"]
    for kind in every_kind_of(StudioError):
        assert str(kind.status) in described, kind
    assert described["429"]["headers"]["Retry-After"]["required"]


def every_kind_of(kind: type[StudioError]) -> set[type[StudioError]]:
    """The product's own errors of this kind, those that answer a request."""
    below = {each for found in kind.__subclasses__() for each in every_kind_of(found)}
    return (below | {kind}) if kind.__module__.startswith("backend.") else below


async def test_files_are_described_with_the_types_that_they_come_in(
    app: FastAPI, viewer: httpx.AsyncClient, session: Session
) -> None:
    queued_run(session)
    described = document(app)["paths"]
    for path, query in (("recipe", ""), ("log", ""), ("log", "?format=jsonl")):
        answer = await viewer.get(f"/api/v1/runs/first/{path}{query}")
        media = answer.headers["content-type"].partition(";")[0]
        assert media in described[f"/api/v1/runs/{{run}}/{path}"]["get"]["responses"]["200"]["content"]
