"""The list of runs, and the run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import yaml
from fastapi import APIRouter, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import journal, runs
from backend.core.errors import Invalid
from backend.core.models import Run, State
from backend.core.yaml12 import read_yaml
from backend.web import reading
from backend.web.api.runs import own
from backend.web.contexts import ArtifactsPart, RunPage, RunsPage, RunStatusPart
from backend.web.deps import AnEdge, Edge
from backend.web.pages.common import Form, draw, go, path_to

router = APIRouter()

LISTED = 50
LOG_SHOWN = 200


@router.get("/runs")
async def runs_page(
    request: Request, edge: AnEdge, state: str = "", q: str = "", before: UUID | None = None
) -> Response:
    def work(session: Session) -> RunsPage:
        wanted = state if state in list(State) else ""
        if q.strip():
            return RunsPage(reading.runs_called(session, q.strip(), LISTED), wanted, None)
        rows = runs.listing(session, limit=LISTED + 1, before=before, state=wanted or None)
        more = str(rows[LISTED - 1].id) if len(rows) > LISTED else None
        return RunsPage(reading.run_outs(session, rows[:LISTED]), wanted, more)

    return draw(request, await edge.read(work))


@router.get("/runs/{run}")
async def run_page(request: Request, run: str, edge: AnEdge) -> Response:
    return draw(request, await edge.read(lambda session: described(session, runs.find(session, run), RunPage)))


@router.get("/runs/{run}/status")
async def run_status(request: Request, run: str, edge: AnEdge) -> Response:
    return draw(request, await edge.read(lambda session: described(session, runs.find(session, run), RunStatusPart)))


@router.get("/runs/{run}/artifacts")
async def run_artifacts(request: Request, run: str, edge: AnEdge) -> Response:
    return draw(request, await edge.read(lambda session: described(session, runs.find(session, run), ArtifactsPart)))


def described(session: Session, run: Run, page: type[RunPage]) -> RunPage:
    """Everything about a run, as it stands at one event: the page follows the events after `run.seq`."""
    return page(
        run=reading.run_detail(session, run),
        curves=dict(journal.curves(session, run.id)),
        samples=reading.samples(session, run.id),
        artifacts=reading.artifacts(session, run),
        log=[vars(line) for line in reading.log_lines(session, run.id, LOG_SHOWN)],
        recipe_yaml=as_yaml(run.recipe),
    )


def as_yaml(recipe: Any) -> str:
    """YAML that `read_yaml` reads back to the same recipe."""
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)


@router.post("/runs/{run}/act")
async def act(request: Request, run: str, form: Form, edge: AnEdge) -> Response:
    what = acts(edge).get(form.get("act", ""))
    if what is None:
        raise Invalid("There is no such act.", where="act")

    def work(session: Session) -> RunPage:
        found = own(edge, session, run)
        what(session, found.id)
        session.flush()
        return described(session, found, RunStatusPart)

    page = await edge.write(work)
    return draw(request, page) if request.headers.get("hx-request") else go(path_to("runs", page.run.name))


def acts(edge: Edge) -> dict[str, Callable[[Session, UUID], Run]]:
    return {
        "pause": runs.pause,
        "resume": runs.resume,
        "stop": partial(runs.stop, keep=True),
        "discard": partial(runs.stop, keep=False),
        "restore": partial(runs.restore, hours=edge.settings.discard_hours),
        "start_over": runs.start_over,
    }


@router.post("/runs/{run}/amend")
async def amend(run: str, form: Form, edge: AnEdge) -> Response:
    """`value` is read like a value of a YAML recipe."""
    value = read_yaml(form.get("value", ""))[0]

    def work(session: Session) -> str:
        found = own(edge, session, run)
        runs.amend(session, found.id, form.get("field", ""), value, edge.who.id)
        return found.name

    return go(path_to("runs", await edge.write(work)))
