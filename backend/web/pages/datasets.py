"""The list of data sets, and what is done to a whole one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query, Request
from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import uploads
from backend.core.datasets import examples, store
from backend.core.models import Operation
from backend.web import reading
from backend.web.api.datasets import GIB, bring_back, check_owner, remove, take_in_once
from backend.web.api.uploads import unfinished
from backend.web.contexts.datasets import DatasetsPage
from backend.web.deps import AnEdge, Edge
from backend.web.pages.common import Form, draw, go, path_to
from backend.web.routers import page_router
from backend.web.shapes.datasets import OperationOut

router = page_router()

OPERATIONS_SHOWN = 20
A_DAY = timedelta(hours=24)
SHOWN = 100


@router.get("/datasets")
async def datasets_page(
    request: Request,
    edge: AnEdge,
    q: Annotated[str, Query(max_length=100)] = "",
    shape: Annotated[str, Query(max_length=40)] = "",
    sort: store.Sort = "changed",
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    removed: bool = False,
    deleted: str = "",
) -> Response:
    wanted = store.Narrowed(q.strip(), shape, sort)
    waiting = await asyncio.to_thread(unfinished, edge)

    def work(session: Session) -> DatasetsPage:
        gone, formats = store.removed(session), store.formats_in_use(session)
        total = len(gone) if removed else store.count(session, wanted)
        return DatasetsPage(
            datasets=[] if removed else reading.dataset_outs(session, SHOWN, offset, wanted),
            total=total,
            wanted=wanted,
            formats=formats,
            next_offset=offset + SHOWN if total > offset + SHOWN and not removed else None,
            operations=operations_shown(session, edge),
            uploads=waiting,
            some_broke_off=any(each.offset < each.length for each in waiting),
            removed=gone,
            shows_removed=removed,
            is_empty=not formats and not removed,
            examples=examples.EXAMPLES,
            deleted=deleted,
        )

    return draw(request, await edge.read(work))


def operations_shown(session: Session, edge: Edge) -> list[OperationOut]:
    """What is being read, whoever sent it, and what of one's own failed within a day."""
    since = datetime.now(UTC) - A_DAY
    own_failed = and_(Operation.state == "failed", Operation.owner_id == edge.who.id, Operation.created_at > since)
    query = select(Operation).where(Operation.kind == "ingest", or_(Operation.state == "running", own_failed))
    return [
        reading.operation_out(row)
        for row in session.scalars(query.order_by(Operation.id.desc()).limit(OPERATIONS_SHOWN))
    ]


@router.post("/datasets/example")
async def use_example(form: Form, edge: AnEdge) -> Response:
    """A small data set of our own sentences, sent like any other."""
    chosen = examples.example(form.get("example", ""))
    await edge.read(lambda session: check_owner(session, edge, chosen.name))
    body = await asyncio.to_thread(chosen.file)

    async def stream() -> AsyncIterator[bytes]:
        yield body

    received = await uploads.receive(uploads.Chunks(stream()), edge.settings.folder("uploads"), GIB)
    await take_in_once(edge, store.upload(chosen.name, f"{chosen.name}.jsonl", received, owner_id=edge.who.id))
    return go(path_to("datasets", chosen.name))


@router.post("/datasets/{name}/delete")
async def delete(name: str, edge: AnEdge) -> Response:
    deleted = await edge.write(lambda session: remove(session, edge, name).name)
    return go(f"/datasets?deleted={path_to('', deleted).rpartition('/')[2]}")


@router.post("/datasets/{name}/restore")
async def restore(name: str, edge: AnEdge) -> Response:
    return go(path_to("datasets", await edge.write(lambda session: bring_back(session, edge, name).name)))
