"""The page of the search."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from backend.core.search import MAX_WORDS
from backend.web import searching
from backend.web.contexts.rooms import SearchPage
from backend.web.deps import AnEdge
from backend.web.pages.common import draw
from backend.web.routers import page_router

router = page_router()

LISTED = 50


@router.get("/search")
async def search_page(request: Request, edge: AnEdge, q: str = "") -> Response:
    words = q.strip()[:MAX_WORDS]
    return draw(request, SearchPage(words, await searching.hits(edge, words, LISTED)))
