"""The list of runs, and the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import yaml
from fastapi import APIRouter, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import journal, runs
from backend.core.errors import Invalid, Problem
from backend.core.models import Run, State
from backend.web import amending, reading
from backend.web.api.runs import own
from backend.web.contexts import AmendPart, ArtifactsPart, RunHistoryPart, RunPage, RunsPage, RunStatusPart
from backend.web.deps import AnEdge, Edge
from backend.web.forms import Pairs as FormPairs
from backend.web.pages.common import Form, Pairs, draw, go, path_to

router = APIRouter()

LISTED = 50
LOG_SHOWN = 200


@router.get("/runs")
async def runs_page(
    request: Request, edge: AnEdge, state: str = "", q: str = "", before: UUID | None = None
) -> Response:
    def work(session: Session) -> RunsPage:
        wanted = state if state in list(State) else ""
        if words := q.strip():
            return RunsPage(reading.runs_called(session, words, LISTED), q=words)
        rows = runs.listing(session, limit=LISTED + 1, before=before, state=wanted or None)
        more = str(rows[LISTED - 1].id) if len(rows) > LISTED else None
        return RunsPage(reading.run_outs(session, rows[:LISTED]), wanted, more)

    return draw(request, await edge.read(work))


@router.get("/runs/{run}")
async def run_page(request: Request, run: str, edge: AnEdge) -> Response:
    return draw(request, await edge.read(lambda session: described(session, runs.find(session, run))))


@router.get("/runs/{run}/status")
async def run_status(request: Request, run: str, edge: AnEdge) -> Response:
    return draw(request, await edge.read(lambda session: status_part(session, runs.find(session, run))))


@router.get("/runs/{run}/artifacts")
async def run_artifacts(request: Request, run: str, edge: AnEdge) -> Response:
    def work(session: Session) -> ArtifactsPart:
        return ArtifactsPart(reading.artifacts(session, runs.find(session, run)))

    return draw(request, await edge.read(work))


@router.get("/runs/{run}/history")
async def run_history(request: Request, run: str, edge: AnEdge) -> Response:
    return draw(request, await edge.read(lambda session: history_part(session, runs.find(session, run))))


def status_part(session: Session, run: Run) -> RunStatusPart:
    return RunStatusPart(reading.run_detail(session, run))


def history_part(session: Session, run: Run) -> RunHistoryPart:
    amendments = reading.amendments(session, run.id)
    return RunHistoryPart(
        run=reading.run_detail(session, run),
        amendments=amendments,
        controls=amending.controls(amending.amended_recipe(run, amendments)),
        checkpoints=reading.checkpoints(session, run.id),
        attempts=reading.attempts(session, run.id),
    )


def described(session: Session, run: Run) -> RunPage:
    """Everything about a run, as it stands at one event: the page follows the events after `run.seq`."""
    return RunPage(
        **vars(history_part(session, run)),
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

    def work(session: Session) -> RunStatusPart:
        found = own(edge, session, run)
        what(session, found.id)
        session.flush()
        return status_part(session, found)

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
async def amend(request: Request, run: str, pairs: Pairs, edge: AnEdge) -> Response:
    """Ask for what the form says otherwise than the recipe. A dialog gets the form again, which then says what is wrong."""
    is_dialog = "hx-request" in request.headers
    try:
        part = await edge.write(lambda session: amended(edge, session, run, pairs))
    except Invalid as refusal:
        if not is_dialog:
            raise
        problems = refusal.problems
        part = await edge.read(lambda session: amend_part(session, runs.find(session, run), pairs, problems))
        return draw(request, part, status=refusal.status)
    if not is_dialog:
        return go(path_to("runs", part.run.name))
    answer = draw(request, part)
    answer.headers["HX-Trigger"] = "done"
    return answer


def amended(edge: Edge, session: Session, name: str, pairs: FormPairs) -> AmendPart:
    run = own(edge, session, name)
    recipe = amending.amended_recipe(run, reading.amendments(session, run.id))
    for field, value in amending.wanted(recipe, pairs).items():
        runs.amend(session, run.id, field, value, edge.who.id)
    session.flush()
    return amend_part(session, run)


def amend_part(session: Session, run: Run, pairs: FormPairs = (), problems: Sequence[Problem] = ()) -> AmendPart:
    """The form as the run stands; with problems, as it was filled in."""
    recipe = amending.amended_recipe(run, reading.amendments(session, run.id))
    filled = amending.with_changes(recipe, amending.said(pairs))
    return AmendPart(reading.run_detail(session, run), amending.controls(filled, problems))
