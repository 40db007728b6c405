"""Hostile recipes, addresses, names and forms through the real API."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.hostile.rows import DATA, NAMES, SETTINGS, YAMLS, Setting, proves, titled
from tests.hostile.studio import PREFLIGHT, SMALL_BYTES, Cost, Studio, as_json, said, with_a_small_accelerator, words_of
from tests.support.hub import Shelf, hub_of

YAML = {"content-type": "application/yaml"}
GOOD = {"model": "tiny-qwen3", "data": {"sets": ["animals"]}, "method": "lora"}


# ---- recipes --------------------------------------------------------------------------------------------------------


@proves(*{each.row for each in SETTINGS})
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_setting_that_makes_no_sense_is_refused_at_its_place(studio: Studio, setting: Setting) -> None:
    for path in ("/api/v1/preflight", "/api/v1/runs"):
        with studio.metered(f"{setting} to {path}"):
            answer = studio.client.post(path, json=setting.recipe())
        assert answer.status_code == 422, answer.text
        [problem] = answer.json()["error"]["problems"]
        assert problem["where"].startswith(setting.place)
        for words in setting.says:
            assert words in f"{problem['message']} {problem.get('hint', '')}"


@proves(*{row for row, *_ in YAMLS})
@pytest.mark.parametrize(("row", "text", "words"), YAMLS)
def test_yaml_that_constructs_or_multiplies_is_refused_by_line(studio: Studio, row: int, text: str, words: str) -> None:
    with studio.metered(titled(row, text)):
        answer = studio.client.post("/api/v1/preflight", content=text, headers=YAML)
    assert answer.status_code == 400
    assert words in words_of(answer)
    assert "line 1" in words_of(answer)


CROWDS: dict[str, Any] = {
    "prompts": {"evaluation": {"prompts": [""] * 340_000}},
    "sets": {"data": {"sets": [{"x": 1}] * 40_000}},
    "settings": {f"k{number}": 0 for number in range(80_000)},
}


@pytest.mark.parametrize("crowd", CROWDS)
@pytest.mark.parametrize("path", ["/api/v1/preflight", "/api/v1/runs", "/api/v1/tokens"])
def test_a_crowd_of_mistakes_in_one_request_is_told_in_a_few_words(studio: Studio, path: str, crowd: str) -> None:
    """All of it is read where everybody else waits."""
    body = json.dumps(GOOD | CROWDS[crowd], separators=(",", ":"))
    with studio.metered(f"69 a crowd of {crowd} to {path}") as cost:
        answer = studio.client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert len(answer.content) < 50_000
    assert cost.memory_mib < 256


def test_a_crowd_of_values_in_yaml_is_refused_by_line(studio: Studio) -> None:
    with studio.metered("64 YAML of half a million values"):
        answer = studio.client.post("/api/v1/preflight", content="a: [" + "x," * 500_000 + "]", headers=YAML)
    assert answer.status_code == 400
    assert "This holds more than 5,000 values" in words_of(answer)


@proves(65)
def test_a_rate_with_an_exponent_is_a_number(studio: Studio, examined: Cost) -> None:
    text = f"model: tiny-qwen3\n{DATA}training: {{learning_rate: 1e-4, per_device_train_batch_size: 2}}\n"
    with studio.metered("65 a rate with an exponent", innocent=examined):
        answer = studio.client.post(PREFLIGHT, content=text, headers=YAML)
    assert answer.status_code == 200, answer.text
    assert answer.json()["recipe"]["training"]["learning_rate"] == 1e-4


@proves(72)
def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(studio: Studio, examined: Cost) -> None:
    long = GOOD | {"evaluation": {"prompts": ["owl " * 1900]}}
    with studio.metered("72 a prompt of 1,900 words", innocent=examined):
        told = studio.client.post(PREFLIGHT, json=long).json()["problems"]
    assert any("tokens long, and the model's context is 256" in each["message"] for each in told), told
    endless = GOOD | {"evaluation": {"prompts": ["owl " * 10_000_000]}}
    with studio.metered("72 a prompt of 40 MB"):
        refused = studio.client.post(PREFLIGHT, json=endless)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    assert "A request body has at most 1 MiB." in words_of(refused)


@proves(78)
def test_what_belongs_to_another_alone_is_not_to_be_found(studio: Studio) -> None:
    """Runs are everybody's to look at. Uploads, tokens and sign-ins are not, and are told from none by nothing."""
    with studio.person("another") as other, studio.person("stranger") as stranger:
        words = "dataset " + base64.b64encode(b"mine").decode()
        begun = other.post("/api/v1/uploads", headers={"upload-length": "9", "upload-metadata": words})
        token = other.post("/api/v1/tokens", json={"name": "mine"}).json()["id"]
        for method, path in (("HEAD", begun.headers["location"]), ("DELETE", begun.headers["location"]),
                             ("DELETE", f"/api/v1/tokens/{token}")):  # fmt: skip
            with studio.metered(f"78 {method} {path.split('/')[3]}"):
                assert stranger.request(method, path).status_code == 404
        run = other.post("/api/v1/runs", json=GOOD | {"name": "of another"}).json()["id"]
        with studio.metered("78 GET runs"):
            assert stranger.get(f"/api/v1/runs/{run}").status_code == 200
        assert stranger.patch(f"/api/v1/runs/{run}", json={"note": "mine now"}).status_code == 403
        none = "00000000-0000-7000-8000-000000000000"
        assert stranger.get(f"/api/v1/runs/{none}").status_code == 404
        assert stranger.delete(f"/api/v1/tokens/{none}").status_code == 404


@proves(80)
def test_a_launch_that_is_sent_again_is_the_same_run(studio: Studio) -> None:
    recipe, key = GOOD | {"name": "sent twice", "data": {"sets": ["animals"]}}, {"idempotency-key": "twice"}
    usual = studio.innocent("a launch", lambda: studio.client.post("/api/v1/runs", json=recipe | {"name": "once"}))
    with studio.metered("80 a launch", innocent=usual):
        first = studio.client.post("/api/v1/runs", json=recipe, headers=key)
    with studio.metered("80 a launch again", innocent=usual):
        again = studio.client.post("/api/v1/runs", json=recipe, headers=key)
    assert (first.status_code, again.status_code) == (201, 201), first.text
    assert first.json()["id"] == again.json()["id"]
    assert [each["name"] for each in studio.client.get("/api/v1/runs?q=sent").json()["items"]] == ["sent twice"]
    other = studio.client.post("/api/v1/runs", json=recipe | {"name": "another"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key")


# ---- addresses ------------------------------------------------------------------------------------------------------


@proves(74)
@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]:8321/owls/tiny",
        "http://[::ffff:169.254.169.254]/owls/tiny",
        "http://2852039166/owls/tiny",
        "http://localhost/owls/tiny",
        "gopher://x.org/owls/tiny",
        "http://[x/owls/tiny",
    ],
)
def test_an_address_that_is_no_hubs_is_not_allowed(studio: Studio, shelf: Shelf, address: str) -> None:
    asked = len(shelf.asked)
    with studio.metered(f"74 {address}"):
        answers = (
            studio.client.get("/api/v1/models/search", params={"q": address}),
            studio.client.post("/api/v1/models/download", json={"id": address}),
        )
    with studio.metered(f"74 {address} on the page"):
        page = studio.client.get("/models", params={"q": address})
    for answer in answers:
        assert answer.status_code == 422
        assert f"“{address}” is not allowed" in words_of(answer)
    assert "is not allowed" in page.text
    assert len(shelf.asked) == asked


@proves(75)
@pytest.mark.parametrize("target", ["http://169.254.169.254/latest", "file:///etc/passwd", "http://127.0.0.1:1/x"])
def test_a_hub_that_leads_inward_is_not_followed(studio: Studio, shelf: Shelf, target: str) -> None:
    shelf.redirects["/api/models/owls/inward"] = target
    with studio.metered(f"75 {target}"):
        answer = studio.client.post("/api/v1/models/download", json={"id": "owls/inward"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "hub.unreachable")
    with hub_of(Shelf({})) as elsewhere:
        shelf.redirects["/api/models/owls/inward"] = f"{elsewhere}/api/models/owls/inward"
        assert studio.client.post("/api/v1/models/download", json={"id": "owls/inward"}).status_code == 503


@proves(77)
@pytest.mark.parametrize("last", ["abc", "-1", "9" * 5000, "1:2,3:4"])
def test_a_last_event_that_is_none_starts_from_the_first(studio: Studio, last: str) -> None:
    run = studio.client.post("/api/v1/runs", json=GOOD | {"name": "followed"}, headers={"idempotency-key": "f"}).json()
    address, headers = f"/api/v1/runs/{run['id']}/events", {"last-event-id": last}
    with studio.metered(f"77 {last[:9]}"), studio.client.stream("GET", address, headers=headers) as stream:
        assert stream.status_code == 200
        first = next(line for line in stream.iter_lines() if line.startswith("id:"))
    assert first == "id: 1"


@proves(73)
def test_words_that_would_hang_a_regular_expression_are_words(studio: Studio) -> None:
    rows = '{"instruction": "' + "a" * 100_000 + '!", "output": "A."}\n{"instruction": "(a+)+$", "output": "B."}\n'
    assert studio.client.put("/api/v1/datasets/patterns?filename=a.jsonl", content=rows).status_code == 201
    good = '{"instruction": "Which owl has never been seen?", "output": "This one."}\n'  # what is known costs nothing
    assert studio.client.put("/api/v1/datasets/unseen?filename=a.jsonl", content=good).status_code == 201
    usual = studio.innocent(
        "a search in rows that nobody has seen",
        lambda: studio.client.get("/datasets/unseen", params={"q": "owl"}),
    )
    with studio.metered("73 a pattern, searched for", innocent=usual):
        page = studio.client.get("/datasets/patterns", params={"q": "(a+)+$"})
    assert page.status_code == 200
    assert "aaaa" not in page.text
    # A person's page has the tokens' ink come later.
    inked = studio.client.get("/datasets/patterns", params={"q": "(a+)+$", "wait": 1})
    assert "aaaa" not in inked.text
    assert "(a+)+$" in inked.text
    for path in ("runs", "datasets"):
        with studio.metered(f"73 a pattern among {path}"):
            assert studio.client.get(f"/api/v1/{path}", params={"q": "(a+)+$"}).status_code == 200


# ---- forms and passwords --------------------------------------------------------------------------------------------


@proves(76)
def test_too_many_fields_or_too_long_ones_are_too_large(studio: Studio) -> None:
    many = {f"f{number}": "x" for number in range(10_000)}
    for path in ("/runs/preflight", "/settings/tokens"):
        with studio.metered(f"76 10,000 fields to {path}"):
            assert studio.client.post(path, data=many).status_code == 413
    with studio.metered("76 a field of 100 MB") as cost:
        answer = studio.client.post("/settings/tokens", data={"name": "x" * 100_000_000})
    assert answer.status_code == 413
    assert cost.own_mib < 64


@proves(79)
def test_a_password_of_megabytes_is_never_hashed(studio: Studio) -> None:
    huge, long = "x" * 10_000_000, "x" * 5000
    with studio.metered("79 a password of 10 MB"):
        assert studio.client.post("/signin", data={"name": "mallory", "password": huge}).status_code == 413
        made = studio.client.post("/api/v1/people", json={"name": "grace", "password": long})
        tried = studio.client.post("/signin", data={"name": "mallory", "password": long})
    assert made.status_code == 422
    assert "at most 1,024 bytes" in words_of(made)
    assert tried.status_code == 401


# ---- names ----------------------------------------------------------------------------------------------------------

Taker = Callable[[httpx.Client, str], httpx.Response]


def upload_metadata(name: str) -> dict[str, str]:
    words = base64.b64encode(name.encode()).decode()
    return {"upload-length": "9", "upload-metadata": f"dataset {words}"}


NAMED: dict[str, tuple[str, Taker]] = {
    "data set": ("name", lambda client, name: client.put(f"/api/v1/datasets/{quote(name, safe='')}", content=b"text")),
    "upload": ("name", lambda client, name: client.post("/api/v1/uploads", headers=upload_metadata(name))),
    "recipe": ("name", lambda client, name: client.post("/api/v1/recipes", **as_json({"name": name, "recipe": GOOD}))),
    "run": ("name", lambda client, name: client.post("/api/v1/runs", **as_json(GOOD | {"name": name}))),
    "model": ("model", lambda client, name: client.post("/api/v1/runs", **as_json(GOOD | {"model": name}))),
    "model to look at": ("model", lambda client, name: client.get("/api/v1/models/inspect", params={"path": name})),
    "model to fetch": ("id", lambda client, name: client.post("/api/v1/models/download", **as_json({"id": name}))),
    "set of a mixture": (
        "data.sets.0",
        lambda client, name: client.post("/api/v1/preflight", **as_json(GOOD | {"data": {"sets": [name]}})),
    ),
    "person": ("name", lambda client, name: client.post("/api/v1/people", **as_json({"name": name}))),
    "token": ("name", lambda client, name: client.post("/api/v1/tokens", **as_json({"name": name}))),
}
"""What takes a name, and the field that its refusal names."""


@proves(42, 43, 44, 45, 46, 47, 48)
@pytest.mark.parametrize("kind", NAMED)
def test_a_hostile_name_is_refused_by_whatever_takes_a_name(studio: Studio, kind: str) -> None:
    field, take = NAMED[kind]
    for what, (row, name) in NAMES.items():
        with studio.metered(f"{row} {kind}: {what}"):
            answer = take(studio.client, name)
        assert answer.status_code in (403, 404, 422), (what, answer.status_code, answer.text)
        told = answer.json()["error"]
        is_no_route = told["code"] == "no_route"  # an address that climbs leads nowhere
        assert is_no_route or any(place.startswith((field, "Upload-Metadata")) for place in places(told)), (what, told)
        assert not {"\0", "\u202e"} & set(said(told)), (what, told)
    assert not list(studio.web.home.rglob("*etc*"))


def places(error: dict[str, Any]) -> list[str]:
    """What an error says is wrong."""
    return [each.get("where") or "" for each in (error, *(error.get("problems") or ()))]


FORMS: dict[str, tuple[str, dict[str, str], str]] = {
    "token": ("/settings/tokens", {"role": "viewer"}, "name"),
    "person": ("/settings/people", {"role": "viewer"}, "name"),
    "recipe": ("/runs/recipe", {"view": "yaml", "yaml": f"model: tiny-qwen3\n{DATA}"}, "save_as"),
    "run": ("/runs", {"view": "advanced", "model.path": "tiny-qwen3", "data.sets.0.name": "animals"}, "name"),
}


@proves(42, 43, 44, 45, 46, 47, 48)
@pytest.mark.parametrize("kind", FORMS)
def test_a_hostile_name_in_a_form_is_told_on_the_page(studio: Studio, kind: str) -> None:
    path, fields, field = FORMS[kind]
    for what, (row, name) in NAMES.items():
        with studio.metered(f"{row} {kind} in a form: {what}"):
            page = studio.client.post(path, data=fields | {field: name})
        assert page.status_code == 422, (what, page.status_code)
        assert page.headers["content-type"].startswith("text/html")
        assert "letters, digits, spaces" in page.text or "at most 80 characters" in page.text, what


@proves(70)
def test_too_little_memory_is_told_with_the_estimate_and_what_is_there(studio: Studio, examined: Cost) -> None:
    with_a_small_accelerator(studio)
    with studio.metered("70 too little memory", innocent=examined):
        told = studio.client.post(PREFLIGHT, json=GOOD | {"method": "full"}).json()
    [advice] = [each for each in told["advice"] if each["code"] == "advice.memory"]
    assert advice["is_serious"]
    assert "too much for NVIDIA Tiny" in advice["message"]
    [need] = [each for each in told["needs"] if each["title"] == "NVIDIA Tiny"]
    assert need["needed_bytes"] > need["memory_bytes"] == SMALL_BYTES
