"""What fills the disk under the home."""

from __future__ import annotations

from backend.web import administration
from backend.web.deps import Admin, AnEdge
from backend.web.routers import api_router
from backend.web.shapes.studio import StorageOut, WasteOut

router = api_router("/storage", "storage")


@router.get("")
async def get(edge: AnEdge) -> StorageOut:
    """How full it is, by kind and by run, as last measured. Asking starts a measurement where that is old; ask again."""
    gauge = edge.studio.gauge
    gauge.look()
    return await edge.read(lambda session: administration.storage_out(session, gauge))


@router.post("/clean-up")
async def clean_up(edge: AnEdge, admin: Admin) -> WasteOut:
    """Delete what nobody needs: uploads that were given up, replaced artifacts, discarded runs whose time is over."""
    return administration.waste_out(await edge.studio.gauge.clean_up(admin))
