"""The first page, and help."""

from __future__ import annotations

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import run_list
from backend.core.models import State
from backend.web import reading
from backend.web.contexts.page import Did
from backend.web.contexts.rooms import HelpPage, HomePage
from backend.web.deps import AnEdge
from backend.web.glances import glances
from backend.web.pages.common import draw
from backend.web.pages.several import did_by
from backend.web.routers import page_router

router = page_router()

UNFINISHED, LATELY, DATASETS = 10, 6, 5
"""How many of each are shown."""


@router.get("/")
async def home(request: Request, edge: AnEdge) -> Response:
    did = did_by(request)
    return draw(request, await edge.read(lambda session: described(session, did)))


def described(session: Session, did: Did | None) -> HomePage:
    counts = run_list.counts(session)  # first: no list is asked for that has nothing in it
    unfinished = run_list.unfinished(session, UNFINISHED, counts)
    lately = run_list.lately(session, LATELY, counts)
    outs = reading.run_outs(session, [*unfinished, *lately])
    going, gone = outs[: len(unfinished)], outs[len(unfinished) :]
    # Only what a worker has held before can wait for a silent host.
    held_before = {run.id: reading.waiting(session, run) for run in unfinished if run.attempt}
    return HomePage(
        running=[run for run in going if run.state != "queued"],
        waiting=[run for run in going if run.state == "queued"],
        waits={run_id: wait for run_id, wait in held_before.items() if wait},
        lately=gone,
        downloads=reading.merged_models(session, lately),
        glances=glances(session, [run for run in unfinished if run.state != State.QUEUED]),
        counts=counts,
        datasets=reading.recent_datasets(session, DATASETS),
        workers=reading.workers(session),
        newest=run_list.newest_id(session),
        did=did,
    )


@router.get("/help")
async def help_page(request: Request) -> Response:
    return draw(request, HelpPage())
