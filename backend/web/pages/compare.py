"""Runs beside each other: curves, settings, answers, figures."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core.comparison import LEAST, MOST
from backend.web import comparing, reading
from backend.web.contexts.compare import ComparePage
from backend.web.deps import AnEdge
from backend.web.glances import glances
from backend.web.pages.common import draw
from backend.web.routers import page_router

router = page_router()

Runs = Annotated[list[str], Query(max_length=4 * MOST)]
NO_RUNS: list[str] = []
Step = Annotated[str, Query(max_length=20)]


@router.get("/compare")
async def compare_page(
    request: Request, edge: AnEdge, run: Runs = NO_RUNS, q: str = "", prompt: int = 0, at: Step = "", settings: str = ""
) -> Response:
    def work(session: Session) -> ComparePage:
        chosen = comparing.find_all(session, run)
        compared = comparing.compare(session, chosen) if len(chosen) >= LEAST else None
        offered = comparing.candidates(session, chosen, q.strip()[:80])
        return ComparePage(
            comparison=compared,
            chosen=reading.run_outs(session, chosen),
            candidates=reading.run_outs(session, offered),
            glances=glances(session, offered) if compared is None else {},
            q=q,
            samples=comparing.side_by_side(session, compared.runs, prompt, at) if compared else None,
            all_settings=settings == "all",
            address="/compare?" + urlencode([("run", each.name) for each in chosen]),
        )

    return draw(request, await edge.read(work))
