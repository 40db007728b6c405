"""For every route one request that succeeds, of things that are its asker's to change."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from tests.security.world import HUB_MODEL, MODEL, PASSWORD, RECIPE, ROWS, TAUGHT, Things

FORM = {"view": "advanced", "model.path": MODEL, "data.sets.0.name": TAUGHT, "method.kind": "lora"}
PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
Words = dict[str, Any]
Request = tuple[str, str, Words]
"""Method, path and the rest, as `httpx` takes them."""


@dataclass(frozen=True)
class Ask:
    """What is sent beside the address. `where` says which of the things each parameter names, where its name does not."""

    where: Mapping[str, str] = field(default_factory=dict)
    send: Callable[[Things], Words] = lambda _: {}


def ask(send: Words | Callable[[Things], Words] = {}, **where: str) -> Ask:  # noqa: B006 -- it is only read
    return Ask(where, send if callable(send) else lambda _: send)


def begun(things: Things) -> Words:
    metadata = f"dataset {base64.b64encode(things.dataset.encode()).decode()}"
    return {"headers": {"upload-length": str(len(ROWS)), "upload-metadata": metadata}}


PIECE = {"headers": {"content-type": "application/offset+octet-stream", "upload-offset": "0"}, "content": ROWS}
PASSWORDS = {"old": PASSWORD, "new": PASSWORD}
SEVERAL: Callable[[Things], Words] = lambda things: {"params": {"act": "pause"}, "data": {"run": things.run}}  # noqa: E731

ASKS: dict[str, Ask] = {
    # data sets
    "PUT /api/v1/datasets/{name}": ask({"content": ROWS, "params": {"filename": "a.jsonl"}}, name="dataset"),
    "POST /api/v1/datasets/probe": ask({"content": ROWS, "params": {"filename": "a.jsonl", "size": len(ROWS)}}),
    "GET /api/v1/datasets/{name}/preview": ask({"params": {"model": MODEL}}, name="dataset"),
    "GET /api/v1/datasets/{name}/lengths": ask({"params": {"model": MODEL}}, name="dataset"),
    "POST /api/v1/datasets/{name}/restore": ask(name="deleted"),
    "POST /api/v1/datasets/{name}/mend": ask({"json": {"cleaner": "repeats"}}, name="dataset"),
    "POST /datasets/example": ask(lambda things: {"data": {"example": things.example}}),
    "POST /datasets/{name}/restore": ask(name="deleted"),
    "POST /datasets/{name}/mend": ask({"data": {"cleaner": "repeats", "version": "1"}}, name="dataset"),
    "GET /datasets/{name}/compare": ask({"params": {"before": 1, "after": 1}}, name="dataset"),
    "POST /api/v1/uploads": ask(begun),
    "PATCH /api/v1/uploads/{upload}": ask(PIECE),
    # models
    "GET /api/v1/models/inspect": ask({"params": {"path": MODEL}}),
    "GET /api/v1/models/fit": ask({"params": {"model": MODEL}}),
    "GET /api/v1/models/search": ask({"params": {"q": "owls"}}),
    "POST /api/v1/models/download": ask({"json": {"id": HUB_MODEL, "revision": "main"}}),
    "POST /models/download": ask({"data": {"id": HUB_MODEL}}),
    # runs
    "POST /api/v1/preflight": ask({"json": RECIPE}),
    "POST /api/v1/runs": ask({"json": RECIPE}),
    "PATCH /api/v1/runs/{run}": ask({"json": {"note": "Rank 16."}}),
    "POST /api/v1/runs/{run}/stop": ask({"json": {"keep": True}}),
    "POST /api/v1/runs/{run}/resume": ask(run="paused"),
    "POST /api/v1/runs/{run}/restore": ask(run="discarded"),
    "POST /api/v1/runs/{run}/clone": ask({"json": {}}),
    "POST /api/v1/runs/{run}/amendments": ask({"json": {"field": "evaluation.prompts", "value": ["Who?"]}}),
    "GET /api/v1/runs/{run}/events": ask(run="ended"),
    "GET /api/v1/events": ask(lambda things: {"params": {"run": things.run}}),
    "GET /api/v1/compare": ask(lambda things: {"params": {"run": [things.run, things.ended]}}),
    "GET /compare": ask(lambda things: {"params": {"run": [things.run, things.ended]}}),
    "POST /runs/new": ask({"data": FORM, "params": {"view": "yaml"}}),
    "POST /runs/preflight": ask({"data": FORM}),
    "GET /runs/new/row": ask({"params": {"dataset": TAUGHT, "model": MODEL}}),
    "POST /runs/recipe": ask(lambda things: {"data": FORM | {"save_as": things.recipe}}),
    "POST /runs": ask({"data": FORM}),
    "POST /runs/several": ask(SEVERAL),
    "POST /runs/{run}/note": ask({"data": {"note": "Rank 16."}}),
    "POST /runs/{run}/act": ask({"data": {"act": "discard"}}),
    "POST /runs/{run}/amend": ask({"data": FORM | {"training.learning_rate": "0.0001"}}),
    # recipes
    "POST /api/v1/recipes": ask(lambda things: {"json": {"name": things.recipe, "recipe": RECIPE}}),
    # the studio
    "PATCH /api/v1/workers/{worker}": ask({"json": {"drained": True}}),
    "POST /settings/workers/{worker}": ask({"data": {"act": "drain"}}),
    # people
    "PATCH /api/v1/me": ask({"json": {"language": "en"}}),
    "POST /settings/language": ask({"data": {"language": "en"}}),
    "PUT /api/v1/me/password": ask({"json": PASSWORDS}),
    "POST /settings/password": ask({"data": PASSWORDS | {"again": PASSWORD}}),
    "DELETE /api/v1/me/sessions/{name}": ask(name="session"),
    "POST /settings/sessions/{name}/end": ask(name="session"),
    "POST /api/v1/tokens": ask({"json": {"name": "ci", "role": "viewer"}}),
    "POST /settings/tokens": ask({"data": {"name": "ci", "role": "viewer", "days": "9"}}),
    "POST /api/v1/people": ask(lambda things: {"json": {"name": f"new {things.person}", "role": "viewer"}}),
    "POST /settings/people": ask(lambda things: {"data": {"name": f"newer {things.person}", "role": "viewer"}}),
    "PATCH /api/v1/people/{person}": ask({"json": {"role": "member"}}),
    "POST /settings/people/{person}": ask({"data": {"role": "member"}}),
}
"""Routes that are not named take nothing beside the things that their parameters name."""
NAMED_FOR = {"name": "dataset"}


def asked(route: str, things: Things) -> Request:
    """The request that succeeds at `route`."""
    method, _, path = route.partition(" ")
    found = ASKS.get(route, Ask())
    return method, PARAMETER.sub(lambda match: name_of(route, match[1], things), path), dict(found.send(things))


def name_of(route: str, parameter: str, things: Things) -> str:
    """What stands for `parameter` in that request's address, encoded."""
    where = ASKS.get(route, Ask()).where
    return quote(getattr(things, where.get(parameter) or NAMED_FOR.get(parameter, parameter)), safe="")


def status_of(client: httpx.Client, route: str, things: Things, **more: Any) -> tuple[int, str]:
    """The answer's status, and the beginning of what it says; streams are left at once."""
    method, path, words = asked(route, things)
    headers = {**words.pop("headers", {}), **more.pop("headers", {})}
    with client.stream(method, path, headers=headers, **words, **more) as answer:
        is_short = "event-stream" not in answer.headers.get("content-type", "")
        text = answer.read()[:300].decode("utf-8", "replace") if is_short and answer.status_code >= 400 else ""
        return answer.status_code, text or answer.headers.get("location", "")
