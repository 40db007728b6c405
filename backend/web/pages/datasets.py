"""The list of data sets, and what is done to a whole one."""

from __future__ import annotations

from fastapi import APIRouter, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core.models import Operation
from backend.web import reading
from backend.web.api.datasets import bring_back, remove
from backend.web.contexts import DatasetsPage
from backend.web.deps import AnEdge
from backend.web.pages.common import draw, go, path_to

router = APIRouter()

OPERATIONS_SHOWN = 5


@router.get("/datasets")
async def datasets_page(request: Request, edge: AnEdge, deleted: str = "") -> Response:
    def work(session: Session) -> DatasetsPage:
        unfinished = select(Operation).where(Operation.state.in_(("running", "failed")))
        operations = session.scalars(unfinished.order_by(Operation.id.desc()).limit(OPERATIONS_SHOWN))
        return DatasetsPage(reading.dataset_outs(session), [reading.operation_out(row) for row in operations], deleted)

    return draw(request, await edge.read(work))


@router.post("/datasets/{name}/delete")
async def delete(name: str, edge: AnEdge) -> Response:
    deleted = await edge.write(lambda session: remove(session, edge, name).name)
    return go(f"/datasets?deleted={path_to('', deleted).rpartition('/')[2]}")


@router.post("/datasets/{name}/restore")
async def restore(name: str, edge: AnEdge) -> Response:
    return go(path_to("datasets", await edge.write(lambda session: bring_back(session, edge, name).name)))
