"""Base models."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from backend.web import previews
from backend.web.contexts import ModelsPage
from backend.web.deps import AnEdge
from backend.web.pages.common import draw

router = APIRouter()


@router.get("/models")
async def models_page(request: Request, edge: AnEdge) -> Response:
    models = await asyncio.to_thread(previews.base_outs, edge.settings)
    return draw(request, ModelsPage(models, [str(root) for root in edge.settings.all_model_roots]))
