"""Background work on data: how far it is, and how to call it off."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.errors import Conflict, NotFound
from backend.core.ids import as_uuid
from backend.core.models import Operation
from backend.web import reading
from backend.web.deps import AnEdge, may_change
from backend.web.routers import api_router
from backend.web.shapes.common import ErrorBody
from backend.web.shapes.datasets import OperationOut

router = api_router("/operations", "operations")

OperationId = Annotated[str, Path(max_length=100, description="The operation's id.")]


def find(session: Session, operation_id: str) -> Operation:
    key = as_uuid(operation_id)
    row = session.get(Operation, key, with_for_update=True) if key else None
    if row is None:
        raise NotFound("There is no such operation.")
    return row


@router.get("")
async def list_operations(edge: AnEdge) -> list[OperationOut]:
    """The newest fifty."""
    query = select(Operation).order_by(Operation.id.desc()).limit(50)
    return await edge.read(lambda session: [reading.operation_out(row) for row in session.scalars(query)])


@router.get("/{operation}")
async def get(operation: OperationId, request: Request, edge: AnEdge) -> OperationOut:
    """How far it is, or why it failed, in the reader's language."""
    found = await edge.read(lambda session: reading.operation_out(find(session, operation)))
    if found.error is None:
        return found
    told = edge.studio.renderer.told(request, found.error.model_dump(exclude_none=True))
    return found.model_copy(update={"error": ErrorBody.model_validate(told)})


@router.post("/{operation}/cancel")
async def cancel(operation: OperationId, edge: AnEdge) -> OperationOut:
    """Ask it to end. What it had begun to make is cleaned up."""

    def work(session: Session) -> OperationOut:
        row = find(session, operation)
        may_change(edge.who, row.owner_id)
        if row.state != "running":
            raise Conflict(f"The operation is {row.state} already.")
        row.state, row.error = "cancelled", None
        people.audit(session, edge.who.id, "operation.cancel", str(row.input.get("name") or row.input.get("id")))
        return reading.operation_out(row)

    return await edge.write(work)
