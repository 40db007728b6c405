"""Runs beside each other."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from backend.core.comparison import MOST
from backend.web import comparing
from backend.web.deps import AnEdge
from backend.web.routers import api_router
from backend.web.shapes.compare import ComparisonOut

router = api_router("/compare", "runs")

Runs = Annotated[
    list[Annotated[str, Query(max_length=100)]],
    Query(
        max_length=4 * MOST, description="Names or ids, two to six of them.", examples=[["support-r8", "support-r16"]]
    ),
]


@router.get("")
async def compare(edge: AnEdge, run: Runs) -> ComparisonOut:
    """Which run is best so far and by how much, or why that cannot be said; their figures; the settings in which they
    differ."""
    return await edge.read(lambda session: comparing.compare(session, comparing.find_all(session, run)))
