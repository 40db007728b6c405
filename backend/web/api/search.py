"""One search over runs, data sets, models and recipes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from backend.core.search import MAX_WORDS
from backend.web import searching
from backend.web.deps import AnEdge
from backend.web.routers import api_router
from backend.web.shapes.studio import HitOut

router = api_router("/search", "search")


@router.get("")
async def search(
    edge: AnEdge,
    q: Annotated[str, Query(max_length=MAX_WORDS, description="Words in a name.", examples=["support"])] = "",
    limit: Annotated[int, Query(ge=1, le=50, description="At most so many of each kind.")] = 5,
) -> list[HitOut]:
    """Whatever has these words in its name. Names that begin with them come first, then the newest."""
    return await searching.hits(edge, q, limit)
