"""Settings of the studio itself: its workers, its disk, its audit."""

from __future__ import annotations

from uuid import UUID

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import audit, people
from backend.core.audit import Wanted
from backend.core.errors import Invalid
from backend.web import administration, reading
from backend.web.api.workers import drain
from backend.web.contexts.settings import AuditPage, StoragePage, WorkersPage
from backend.web.deps import Admin, AnEdge, Edge
from backend.web.pages.common import Form, draw, go
from backend.web.pages.settings import shared
from backend.web.routers import page_router
from backend.web.shapes.studio import WasteOut

router = page_router()

LISTED = 50


@router.get("/settings/workers")
async def workers_page(request: Request, edge: AnEdge) -> Response:
    return draw(request, WorkersPage(**shared(edge, request), workers=await edge.read(reading.workers)))


@router.post("/settings/workers/{worker}")
async def change_worker(worker: str, form: Form, edge: AnEdge, admin: Admin) -> Response:
    act = form.get("act", "")
    if act not in ("drain", "release"):
        raise Invalid("There is no such act.", where="act")
    await edge.write(lambda session: drain(session, worker, admin, is_drained=act == "drain"))
    return go("/settings/workers?done=worker")


@router.get("/settings/storage")
async def storage_page(request: Request, edge: AnEdge) -> Response:
    return await drawn_storage(request, edge)


async def drawn_storage(request: Request, edge: Edge, freed: WasteOut | None = None) -> Response:
    gauge = edge.studio.gauge
    gauge.look()
    page = StoragePage(
        **shared(edge, request),
        storage=await edge.read(lambda session: administration.storage_out(session, gauge)),
        home=str(edge.settings.root),
        freed=freed,
    )
    return draw(request, page)


@router.post("/settings/storage/clean-up")
async def clean_up(request: Request, edge: AnEdge, admin: Admin) -> Response:
    """The answer says what was freed."""
    freed = await edge.studio.gauge.clean_up(admin)
    return await drawn_storage(request, edge, administration.waste_out(freed))


@router.get("/settings/audit")
async def audit_page(
    request: Request, edge: AnEdge, _: Admin, person: str = "", action: str = "", before: UUID | None = None
) -> Response:
    def work(session: Session) -> AuditPage:
        entries, following = administration.audit_page(session, Wanted(person, action, before), LISTED)
        return AuditPage(
            **shared(edge, request),
            entries=entries,
            people=[user.name for user in people.listing(session)],
            actions=audit.actions(session),
            person=person,
            action=action,
            next=following,
        )

    return draw(request, await edge.read(work))
