"""Models of the hub are fetched as operations: begun by a page and the API, and waited for by a launch that names one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

from sqlalchemy.orm import Session

from backend.core import hub, operations, people
from backend.core import launch as launches
from backend.core.errors import Conflict, Problem, StudioError, Unavailable
from backend.core.hub import HubModel
from backend.core.launch import Pinned
from backend.core.models import Json, Operation
from backend.core.operations import DOWNLOAD, OUTAGES
from backend.web import reading
from backend.web.deps import Edge
from backend.web.shapes.datasets import OperationOut

LOOK_SECONDS = 1.0
"""Between two looks at an operation that a launch waits for."""


async def begin(edge: Edge, hub_id: str, revision: str | None = None) -> OperationOut:
    """Look at the model, refuse what cannot be used, and begin its download. Raises `StudioError`."""
    return await _begun(edge, await edge.asked(hub.look, hub.named_in(hub_id) or hub_id, revision))


async def _begun(edge: Edge, model: HubModel) -> OperationOut:
    def work(session: Session) -> OperationOut:
        row = operations.begin_download(session, model, edge.who.id)
        people.audit(session, edge.who.id, "model.download", model.id)
        session.refresh(row)
        return reading.operation_out(row)

    operation = await edge.write(work)
    edge.studio.operations.submit(operation.id, DOWNLOAD)
    return operation


async def fetched(edge: Edge, pinned: Pinned) -> Pinned:
    """Once its model lies here; at the hub's commit, where only the hub had it. Whoever asked may be gone meanwhile, and sends
    the same again: that waits for the same download. Raises `StudioError` where it was called off or failed."""
    if not await _is_elsewhere(edge, pinned):
        return pinned
    async with edge.studio.fetching.of(edge.who.id):
        choice = pinned.recipe.model
        model = await edge.asked(hub.look, choice.path, choice.revision)
        pinned = launches.at_commit(pinned, model.revision)
        if await _is_elsewhere(edge, pinned):  # a branch is known to be here once the hub has named its commit
            named = replace(model, id=choice.path)  # hubs know some models by several names: the recipe's is looked for
            operation = await _begun(replace(edge, key=""), named)  # the request's key is for its own answer
            await _over(edge, operation.id, choice.path)
    return pinned


async def _is_elsewhere(edge: Edge, pinned: Pinned) -> bool:
    async with edge.studio.launching.of(edge.who.id):
        return await asyncio.to_thread(launches.is_elsewhere, pinned, edge.settings)


async def _over(edge: Edge, operation_id: UUID, name: str) -> None:
    """Wait for a download, through outages of Postgres as well. Raises `StudioError` unless it succeeded."""

    def outcome(session: Session) -> tuple[str, Json | None]:
        row = session.get_one(Operation, operation_id)
        return row.state, row.error

    state, error = "running", None
    while state == "running":
        if edge.studio.operations.closing.is_set():
            raise Unavailable("The studio is stopping.", hint="Try again when it runs: the download goes on then.")
        await asyncio.sleep(LOOK_SECONDS)
        try:
            state, error = await edge.read(outcome)
        except (Unavailable, *OUTAGES):
            continue
    if error is not None:
        raise _failure(error)
    if state != "succeeded":
        raise Conflict(f"The download of “{name}” was cancelled.", code="cancelled")


def _failure(told: Json) -> StudioError:
    problems = tuple(Problem(**each) for each in told.get("problems", ()))
    return Unavailable(
        told["message"],
        hint=told.get("hint", ""),
        where=told.get("where", ""),
        code=told["code"],
        problems=problems,
    )
