"""Worker hosts and their accelerators."""

from __future__ import annotations

from fastapi import APIRouter

from backend.web import reading
from backend.web.deps import AnEdge
from backend.web.shapes import WorkerOut

router = APIRouter(prefix="/workers", tags=["workers"])


@router.get("")
async def list_workers(edge: AnEdge) -> list[WorkerOut]:
    """Every worker host that was ever heard of, with what it holds now."""
    return await edge.read(reading.workers)
