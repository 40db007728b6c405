"""The list of runs."""

from __future__ import annotations

from uuid import UUID

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import run_list
from backend.core.models import State
from backend.core.run_list import Sort, Wanted
from backend.web import reading
from backend.web.addresses import Address
from backend.web.contexts.page import Did
from backend.web.contexts.rooms import RunsPage
from backend.web.deps import AnEdge
from backend.web.glances import glances
from backend.web.pages.common import draw
from backend.web.pages.several import did_by
from backend.web.routers import page_router

router = page_router()

LISTED = 40
FILTERS = ("state", "owner", "model", "data", "q", "sort")


@router.get("/runs")
async def runs_page(request: Request, edge: AnEdge, before: UUID | None = None) -> Response:
    """Whatever an address says wrongly narrows nothing: addresses are kept, shared and typed by hand."""
    wanted = wanted_by(request)
    address = Address("/runs", [(name, request.query_params.get(name, "")) for name in FILTERS])
    did = did_by(request)
    return draw(request, await edge.read(lambda session: listed(session, wanted, before, address, did)))


def wanted_by(request: Request) -> Wanted:
    said = {name: request.query_params.get(name, "").strip()[:200] for name in FILTERS}
    state = said["state"] if said["state"] in (*State, "active") else ""
    sort = Sort(said["sort"]) if said["sort"] in list(Sort) else Sort.NEWEST
    return Wanted(state, said["owner"], said["model"], said["data"], said["q"], sort)


def listed(session: Session, wanted: Wanted, before: UUID | None, address: Address, did: Did | None) -> RunsPage:
    rows = run_list.listing(session, wanted, limit=LISTED + 1, before=before)
    shown = rows[:LISTED]
    return RunsPage(
        runs=reading.run_outs(session, shown),
        glances=glances(session, shown),
        wanted=wanted,
        address=address,
        counts=run_list.counts(session, wanted),
        choices=reading.choices(session),
        newest=run_list.newest_id(session),
        next=str(shown[-1].id) if len(rows) > LISTED else None,
        did=did,
    )
