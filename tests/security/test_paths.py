"""Paths, addresses and commands smuggled in through every name, id, query and body.

MLflow CVE-2023-1177, CVE-2023-2780 (backslashes), CVE-2024-2928 (`#`), CVE-2024-1560 (decoded twice), CVE-2026-2033 and
CVE-2026-53995 (ids); h2o-3 CVE-2023-6038, CVE-2024-5986 and CVE-2026-3960 (`jdbc:`); Gradio CVE-2023-51449;
text-generation-webui CVE-2026-35050; LLaMA-Factory CVE-2024-52803, kohya_ss CVE-2024-32025 and CVE-2024-32026 (commands).
"""

from __future__ import annotations

import base64
import http.client
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from sqlalchemy import select

from backend.core.models import Run
from backend.core.recipe import read_recipe
from backend.core.settings import Settings
from backend.web.app import create_app
from backend.web.reference import document
from tests.security.asking import ASKS, PARAMETER, Words, asked, name_of
from tests.security.world import RECIPE, World
from tests.support.routes import declared_routes, questions_of, routes_of

SECRET = "CANARY-6d0f2c"
PASSWD = "root:x:0:0"
OWN = "cache"
"""The folder that the studio itself makes when a hub is first asked."""
NOTHING: Mapping[str, str] = {}
JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True)
class Canary:
    """A folder beside the studio's home: nothing of it may be read, changed or added to."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "config.json"

    def seen(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def texts(self) -> list[str]:
        """Ways to spell its file, and other places and commands: as a person would type them, spelled twice or three times over,
        deep, with a drive, in an order that is turned round."""
        return [
            f"../../{self.folder.name}/config.json",
            f"..\\..\\{self.folder.name}\\config.json",
            str(self.file),
            f"file://{self.file}",
            f"http:///#/../../{self.folder.name}/config.json",
            "jdbc:h2:mem:x;INIT=RUNSCRIPT FROM 'file:/etc/passwd'",
            "a\0b",
            "a\r\nSet-Cookie: x=1",
            f"out;touch {self.folder}/pwned|touch {self.folder}/pwned;$(touch {self.folder}/pwned)`touch {self.folder}/pwned`",
            f"a/../../../{self.folder.name}/config.json",
            f"%2e%2e%2f%2e%2e%2f{self.folder.name}%2fconfig.json",
            f"%252e%252e%252f%252e%252e%252f{self.folder.name}%252fconfig.json",
            f"/{self.file}",
            "../../../../../../../../etc/passwd",
            "C:/windows/win.ini",
            "\u202egpj.exe",
        ]


@pytest.fixture
def canary(world: World) -> Iterator[Canary]:
    """After each test it is as it was, and nothing that the studio answered holds its secret."""
    folder = world.web.home.parent / f"{world.web.home.name}-canary"
    folder.mkdir(exist_ok=True)
    canary = Canary(folder)
    canary.file.write_text(json.dumps({"model_type": "llama", "secret": SECRET}))
    before, beside = canary.seen(), set(world.web.home.iterdir())
    yield canary
    assert canary.seen() == before
    assert {path.name for path in world.web.home.iterdir()} - {OWN} == {path.name for path in beside} - {OWN}
    canary.file.unlink()
    folder.rmdir()


@dataclass(frozen=True)
class Heard:
    """An answer: what is wrong with it, and where it leads."""

    status: int
    wrong: str
    place: str = ""


@dataclass(frozen=True)
class Line:
    """A connection that sends the target as it is: no client tidies it up on the way."""

    world: World
    headers: Mapping[str, str]

    def send(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] = NOTHING) -> str:
        """What is wrong with the answer; empty where it was a refusal in words, or an answer that holds no secret and leads
        nowhere but into the studio."""
        return self.asked(method, target, body, headers).wrong

    def asked(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Heard:
        at = urlsplit(self.world.web.address)
        connection = http.client.HTTPConnection(str(at.hostname), at.port, timeout=60)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in {**self.headers, "content-length": str(len(body)), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            place = answer.getheader("location") or ""
            if "event-stream" in (answer.getheader("content-type") or ""):
                return Heard(answer.status, "", place)
            said = answer.read().decode("utf-8", "replace")
        except http.client.IncompleteRead:
            return Heard(answer.status, "the answer broke off")
        finally:
            connection.close()
        is_broken = answer.status >= 500 or "x=1" in (answer.getheader("set-cookie") or "")
        leads_away = place != "" and (not place.startswith("/") or place.startswith(("//", "/\\")))
        is_wrong = is_broken or leads_away or SECRET in said or PASSWD in said
        return Heard(answer.status, f"{answer.status} {place} {said[:120]}" if is_wrong else "", place)


@pytest.fixture
def line(world: World) -> Iterator[Line]:
    with world.client("admin") as client:
        yield Line(world, {name: client.headers[name] for name in ("cookie", "x-csrf-token", "origin")})


def declared(here: Settings) -> list[str]:
    return [f"{method} {path}" for method, path in declared_routes(create_app(here)) if path != "/signout"]


def test_no_name_in_an_address_leads_out_of_the_studio(
    world: World, here: Settings, canary: Canary, line: Line
) -> None:
    wrong, things = [], world.things("admin")
    for route in declared(here):
        method, _, path = route.partition(" ")
        words = asked(route, things)[2]
        others = partial(PARAMETER.sub, lambda match, route=route: name_of(route, match[1], things))
        for parameter in PARAMETER.finditer(path):
            for name in canary.texts():
                for spelled in spellings(name):
                    target = others(path[: parameter.start()]) + spelled + others(path[parameter.end() :])
                    if found := line.send(method, target + query_of(words), *sent(words)):
                        wrong.append(f"{method} {target}: {found}")
    assert wrong == []


def test_what_is_sent_along_with_a_name_is_not_what_is_refused(world: World, here: Settings, line: Line) -> None:
    """Or the test above would end before any name is looked at."""
    refused = []
    for route in (each for each in declared(here) if PARAMETER.search(each)):
        method, path, words = asked(route, world.things("admin"))
        if line.asked(method, path + query_of(words), *sent(words)).status == 422:
            refused.append(route)
    assert refused == []


def spellings(name: str) -> set[str]:
    """As a client encodes it, as somebody does who hopes for a second decoding, and with its slashes left alone."""
    is_path = "etc" in name or "config.json" in name
    more = {quote(quote(name, safe=""), safe=""), quote(name, safe="/%")} if is_path and "%" not in name else set()
    return {quote(name, safe=""), *more}


def test_no_question_leads_out_of_the_studio(world: World, here: Settings, canary: Canary, line: Line) -> None:
    wrong = []
    for route, names in questions(here).items():
        things = world.things("admin")
        for name, value in product(names, canary.texts()):
            if not route.startswith("GET "):
                things = world.things("admin")  # what was written before has changed the others
            method, path, words = asked(route, things)
            query = urlencode({**words.get("params", {}), name: value}, doseq=True)
            if found := line.send(method, f"{path}?{query}", *sent(words)):
                wrong.append(f"{method} {path}?{query}: {found}")
    assert wrong == []


def test_the_questions_of_writes_are_asked_too(here: Settings) -> None:
    """Or the test above would pass without them."""
    asked = questions(here)
    assert {"filename", "columns", "format"} <= set(asked["PUT /api/v1/datasets/{name}"])
    assert "filename" in asked["POST /api/v1/datasets/probe"]
    assert "back" in asked["POST /runs/several"]


def questions(here: Settings) -> dict[str, list[str]]:
    """What each route takes in its query, and what pages read of it themselves."""
    found: dict[str, list[str]] = {
        "GET /models": ["model", "q", "on", "kind"],
        "GET /runs/new": ["model.path", "data.sets.0.name", "clone", "recipe"],
    }
    for path, route in routes_of(create_app(here)):
        for method in sorted(route.methods or ()):
            if names := questions_of(route):
                found.setdefault(f"{method} {path}", []).extend(names)
    return found


def query_of(words: Words) -> str:
    """As it stands behind the path."""
    return f"?{urlencode(words['params'], doseq=True)}" if "params" in words else ""


def sent(words: Words) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a request, as they stand on the line."""
    headers = dict(words.get("headers", {}))
    if "json" in words:
        return json.dumps(words["json"]).encode(), headers | JSON
    if "data" in words:
        return urlencode(words["data"], doseq=True).encode(), headers | FORM
    return words.get("content", "").encode(), headers


def test_no_text_in_a_body_leads_out_of_the_studio(world: World, canary: Canary, line: Line) -> None:
    wrong = []
    for route in (each for each in ASKS if "password" not in each):
        method, path, words = asked(route, world.things("admin"))
        for body, headers in hostile_bodies(words, canary.texts()):
            if found := line.send(method, path + query_of(words), body, headers):
                wrong.append(f"{method} {path} {body[:120]!r}: {found}")
    assert wrong == []


def test_every_text_that_a_body_may_hold_is_in_the_one_that_is_sent(world: World) -> None:
    """Or the test above would pass without it. Passwords are hashed, and lead nowhere."""
    described = document(create_app(world.web.settings))
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            schema = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if texts := {*texts_in(schema, described["components"]["schemas"])} - {"password", "old", "new"}:
                body = asked(f"{method.upper()} {path}", world.things("admin"))[2]["json"]
                assert texts <= body.keys(), f"{method} {path}"


def texts_in(schema: Any, named: Mapping[str, Any]) -> Iterator[str]:
    """The names of an object's texts that may say anything."""
    at = named[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for name, each in at.get("properties", {}).items():
        kinds = each.get("anyOf", [each])
        if any(kind.get("type") == "string" and not {"enum", "const"} & kind.keys() for kind in kinds):
            yield name


def test_no_text_in_a_whole_recipe_leads_out_of_the_studio(world: World, canary: Canary, line: Line) -> None:
    """Every setting that there is, those too that a person hardly ever writes: a name, a revision, modules, prompts."""
    whole = read_recipe(RECIPE | {"name": "whole"}).recipe.model_dump(mode="json")
    command = f"out;touch {canary.folder}/pwned"
    bodies = (body for value in (*canary.texts(), command) for body in exchanged(whole, value))
    found = ((body, line.send("POST", "/api/v1/runs", *sent({"json": body}))) for body in bodies)
    assert [each for each in found if each[1]] == []
    with world.web.session() as session:
        taken = [run for run in session.scalars(select(Run)) if command in json.dumps(run.recipe)]
    assert len(taken) > 1, "commands came through to runs"


METADATA = ("dataset", "filename", "format", "columns", "skip_bad_rows", "modified", "head")


def test_nothing_that_an_upload_says_of_itself_leads_out_of_the_studio(
    world: World, canary: Canary, line: Line
) -> None:
    """From its words to the last of its bytes, when the names in them are used."""
    wrong, begun = [], Counter[str]()
    for key, value in product(METADATA, canary.texts()):
        method, path, words = asked("POST /api/v1/uploads", world.things("admin"))
        said = words["headers"]["upload-metadata"] if key != "dataset" else ""
        told = ",".join(filter(None, (said, f"{key} {base64.b64encode(value.encode()).decode()}")))
        heard = line.asked(method, path, b"", {**words["headers"], "upload-metadata": told})
        found = heard.wrong
        if heard.place and not found:
            begun[key] += 1
            body, headers = sent(asked("PATCH /api/v1/uploads/{upload}", world.things("admin"))[2])
            found = line.send("PATCH", heard.place, body, headers)
        if found:
            wrong.append(f"{key} {value!r}: {found}")
    assert wrong == []
    assert begun["filename"], "no name of a file came through to where it is used"


def hostile_bodies(words: Words, values: list[str]) -> Iterator[tuple[bytes, dict[str, str]]]:
    """The body with each of its texts exchanged for each of the values, and its headers."""
    for value in values:
        if "data" in words:
            for name in words["data"]:
                yield sent({"data": words["data"] | {name: value}})
        for body in exchanged(words.get("json"), value):
            yield sent({"json": body})


def exchanged(body: Any, value: str) -> Iterator[Any]:
    """`body` with one text in it exchanged, or one that may be there, for each of them."""
    match body:
        case str() | None:
            yield value
        case []:
            yield [value]
        case dict():
            for name, inner in body.items():
                yield from (body | {name: each} for each in exchanged(inner, value))
        case list():
            for at, inner in enumerate(body):
                yield from ([*body[:at], each, *body[at + 1 :]] for each in exchanged(inner, value))
