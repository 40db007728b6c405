"""From what a person wrote to a run in the queue: read, planned in a thread, launched in the request's transaction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session
from starlette.requests import Request

from backend.core import launch as launches
from backend.core.errors import BadRequest
from backend.core.launch import Plan
from backend.core.yaml12 import read_yaml
from backend.web import reading
from backend.web.deps import Edge
from backend.web.fetching import fetched
from backend.web.shapes.runs import RunDetailOut

EXAMPLE = {
    "model": "stories260k",
    "data": {"sets": ["alpaca"], "truncation": "drop"},
    "method": {"kind": "qlora", "r": 16},
    "training": {"max_steps": 200},
}
RECIPE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "title": "Recipe"}, "example": EXAMPLE},
            "application/yaml": {
                "schema": {"type": "string"},
                "example": "model: stories260k\ndata:\n  sets: [alpaca]\n",
            },
        },
    }
}


async def raw_recipe(request: Request) -> Any:
    """The body as plain data, by its content type. Raises `BadRequest` with the line."""
    body = await request.body()
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadRequest("The recipe is not UTF-8.") from None
    if "yaml" in request.headers.get("content-type", ""):
        return read_yaml(text)[0]
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise BadRequest(f"This is not JSON: {error.msg}.", where=f"line {error.lineno}") from None
    except ValueError:  # Python refuses to read an integer of thousands of digits
        raise BadRequest("The recipe holds a number too long to be meant.") from None
    except RecursionError:
        raise BadRequest("Nested too deeply.") from None


def _refuse(word: str) -> float:
    raise BadRequest(f"{word} is not a number that JSON knows.")


async def plan(edge: Edge, raw: Any, *, may_download: bool = False) -> Plan:
    """Pin the data, find the model, and have every row read in a limited process, unless that was done before. A download is
    waited for first, in no turn of this: it may take days."""
    pinned = await edge.read(lambda session: launches.pin(session, raw))
    if may_download:
        pinned = await fetched(edge, pinned)
    async with edge.studio.launching.of(edge.who.id):
        found = launches.found if may_download else launches.found_here
        pinned = await asyncio.to_thread(found, pinned, edge.settings)
        return launches.planned(pinned, await edge.studio.checks.answer(pinned))


async def launch(
    edge: Edge, raw: Any, *, parent_id: UUID | None = None, recipe_version_id: UUID | None = None
) -> RunDetailOut:
    """The run, queued. Raises `Invalid` with everything that stands in its way."""
    planned = await plan(edge, raw, may_download=True)

    def work(session: Session) -> RunDetailOut:
        run = launches.launch(session, planned, edge.settings, owner_id=edge.who.id, parent_id=parent_id)
        run.recipe_version_id = recipe_version_id
        session.flush()
        return reading.run_detail(session, run)

    return await edge.write(work)


def changed(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with some settings replaced, group by group. Its name goes: two runs cannot share one."""
    merged = {name: value for name, value in recipe.items() if name != "name"}
    for name, value in changes.items():
        known = merged.get(name)
        both_groups = isinstance(known, dict) and isinstance(value, dict)
        merged[name] = known | value if both_groups else value
    return merged
