"""The first page, and help."""

from __future__ import annotations

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import runs
from backend.core.models import ENDED
from backend.web import reading
from backend.web.contexts import HelpPage, HomePage
from backend.web.deps import AnEdge
from backend.web.pages.common import draw

router = APIRouter()

SHOWN = 20


@router.get("/")
async def home(request: Request, edge: AnEdge) -> Response:
    def work(session: Session) -> HomePage:
        newest = reading.run_outs(session, runs.listing(session, limit=SHOWN))
        unfinished_first = sorted(newest, key=lambda run: run.state in ENDED)
        return HomePage(unfinished_first, reading.dataset_outs(session, limit=SHOWN), reading.workers(session))

    return draw(request, await edge.read(work))


@router.get("/help")
async def help_page(request: Request) -> Response:
    return draw(request, HelpPage())
