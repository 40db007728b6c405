"""Base models: what lies under the model roots, and what a hub id holds."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from backend.web import previews
from backend.web.deps import AnEdge
from backend.web.shapes import BaseOut

router = APIRouter(prefix="/models", tags=["models"])


@router.get("")
async def list_models(edge: AnEdge) -> list[BaseOut]:
    """Every model folder under the model roots; those that cannot be used say why."""
    return await asyncio.to_thread(previews.base_outs, edge.settings)


@router.get("/inspect")
async def inspect(
    edge: AnEdge,
    path: Annotated[str, Query(min_length=1, max_length=400, description="A folder's name, or a hub id.")],
    revision: Annotated[str | None, Query(max_length=100, description="Commit, branch or tag on the hub.")] = None,
) -> BaseOut:
    """Look at one model. A hub id is downloaded where it is not in the cache yet."""
    return await asyncio.to_thread(previews.inspected, edge.settings, path, revision)
