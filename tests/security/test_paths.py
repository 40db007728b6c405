"""Paths, addresses and commands smuggled in through every name, id, query and body.

MLflow CVE-2023-1177, CVE-2023-2780 (backslashes), CVE-2024-2928 (`#`), CVE-2024-1560 (decoded twice), CVE-2026-2033 and
CVE-2026-53995 (ids); h2o-3 CVE-2023-6038, CVE-2024-5986 and CVE-2026-3960 (`jdbc:`); Gradio CVE-2023-51449;
text-generation-webui CVE-2026-35050; LLaMA-Factory CVE-2024-52803, kohya_ss CVE-2024-32025 and CVE-2024-32026 (commands).
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest

from backend.core.settings import Settings
from backend.web.app import create_app
from tests.security.asking import ASKS, PARAMETER, asked, name_of
from tests.security.world import World
from tests.support.routes import declared_routes, questions_of, routes_of

SECRET = "CANARY-6d0f2c"
PASSWD = "root:x:0:0"


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
        """Ways to spell its file, and other places and commands, as a person would type them."""
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
        ]

    def names(self) -> list[str]:
        """The same, and what an address may hold beside: spelled twice over, drives, an order that is turned round."""
        return [
            *self.texts(),
            f"a/../../../{self.folder.name}/config.json",
            f"%2e%2e%2f{self.folder.name}%2fconfig.json",
            f"%252e%252e%252f{self.folder.name}%252fconfig.json",
            f"//{self.folder.name}/config.json",
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
    assert {path.name for path in world.web.home.iterdir()} == {path.name for path in beside}
    canary.file.unlink()
    folder.rmdir()


@dataclass(frozen=True)
class Line:
    """A connection that sends the target as it is: no client tidies it up on the way."""

    world: World
    headers: Mapping[str, str]

    def send(self, method: str, target: str, body: str = "", kind: str = "") -> str:
        """What is wrong with the answer; empty where it was a refusal in words, or an answer that holds no secret."""
        at = urlsplit(self.world.web.address)
        connection = http.client.HTTPConnection(str(at.hostname), at.port, timeout=60)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in {**self.headers, "content-length": str(len(body.encode())), **kind_of(kind)}.items():
                connection.putheader(name, value)
            connection.endheaders(body.encode())
            answer = connection.getresponse()
            if "event-stream" in (answer.getheader("content-type") or ""):
                return ""
            said = answer.read().decode("utf-8", "replace")
        except http.client.IncompleteRead:
            return "the answer broke off"
        finally:
            connection.close()
        is_broken = answer.status >= 500 or "x=1" in (answer.getheader("set-cookie") or "")
        return f"{answer.status} {said[:120]}" if is_broken or SECRET in said or PASSWD in said else ""


def kind_of(kind: str) -> dict[str, str]:
    return {"content-type": kind} if kind else {}


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
        others = partial(PARAMETER.sub, lambda match, route=route: name_of(route, match[1], things))
        for parameter in PARAMETER.finditer(path):
            for name in canary.names():
                for spelled in spellings(name):
                    target = others(path[: parameter.start()]) + spelled + others(path[parameter.end() :])
                    if found := line.send(method, target):
                        wrong.append(f"{method} {target}: {found}")
    assert wrong == []


def spellings(name: str) -> set[str]:
    """As a client encodes it, as somebody does who hopes for a second decoding, and with its slashes left alone."""
    is_path = "etc" in name or "config.json" in name
    more = {quote(quote(name, safe=""), safe=""), quote(name, safe="/%")} if is_path and "%" not in name else set()
    return {quote(name, safe=""), *more}


def test_no_question_leads_out_of_the_studio(world: World, here: Settings, canary: Canary, line: Line) -> None:
    wrong, things = [], world.things("admin")
    for route, names in questions(here).items():
        _, path, words = asked(route, things)
        for name in names:
            for value in canary.texts():
                query = urlencode({**words.get("params", {}), name: value}, doseq=True)
                if found := line.send("GET", f"{path}?{query}"):
                    wrong.append(f"{path}?{query}: {found}")
    assert wrong == []


def questions(here: Settings) -> dict[str, list[str]]:
    """What each route that is looked at takes in its query, and what pages read of it themselves."""
    found: dict[str, list[str]] = {
        "GET /models": ["model", "q", "on", "kind"],
        "GET /runs/new": ["model.path", "data.sets.0.name", "clone", "recipe"],
    }
    for path, route in routes_of(create_app(here)):
        if "GET" in (route.methods or ()) and (names := questions_of(route)):
            found.setdefault(f"GET {path}", []).extend(names)
    return found


def test_no_text_in_a_body_leads_out_of_the_studio(world: World, canary: Canary, line: Line) -> None:
    wrong = []
    for route in (each for each in ASKS if "password" not in each):
        method, path, words = asked(route, world.things("admin"))
        query = f"?{urlencode(words['params'], doseq=True)}" if "params" in words else ""
        for body, kind in hostile_bodies(words, canary.texts()):
            if found := line.send(method, path + query, body, kind):
                wrong.append(f"{method} {path} {body[:120]}: {found}")
    assert wrong == []


def hostile_bodies(words: dict[str, Any], values: list[str]) -> Iterator[tuple[str, str]]:
    """The body with each of its texts exchanged for each of the values, and its content type."""
    for value in values:
        if "data" in words:
            for name in words["data"]:
                yield urlencode(words["data"] | {name: value}), "application/x-www-form-urlencoded"
        for body in exchanged(words.get("json"), value):
            yield json.dumps(body), "application/json"


def exchanged(body: Any, value: str) -> Iterator[Any]:
    """`body` with one text in it exchanged, for each of them."""
    match body:
        case str():
            yield value
        case dict():
            for name, inner in body.items():
                yield from (body | {name: each} for each in exchanged(inner, value))
        case list():
            for at, inner in enumerate(body):
                yield from ([*body[:at], each, *body[at + 1 :]] for each in exchanged(inner, value))
