"""The page of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import curves, journal, runs, schedules
from backend.core.difference import setting_differences, settings_of
from backend.core.errors import Invalid, Problem
from backend.core.memory import Footprint, footprint, shape_of
from backend.core.models import ENDED, Run
from backend.core.outlook import Outlook, outlook
from backend.core.recipe import read_recipe
from backend.core.yaml12 import as_yaml
from backend.web import amending, reading
from backend.web.api.runs import own
from backend.web.contexts.runs import (
    AmendPart,
    ArtifactsPart,
    RunHistoryPart,
    RunLogPart,
    RunMemoryPart,
    RunNotePart,
    RunPage,
    RunStatusPart,
    Setting,
)
from backend.web.deps import AnEdge, Edge
from backend.web.forms import Pairs as FormPairs
from backend.web.pages.common import Form, Pairs, draw, go, path_to
from backend.web.remedies import remedies
from backend.web.routers import page_router
from backend.web.shapes.common import LARGEST
from backend.web.shapes.runs import AmendmentOut

router = page_router()

LOG_SHOWN = 200
LOG_SEARCHED = 5000
SAMPLED_STEPS_SHOWN = 20
SAMPLES_BYTES = 2 << 20
Words = Annotated[str, Query(max_length=200)]
LastStep = Annotated[int | None, Query(alias="to", ge=0, le=LARGEST)]


@router.get("/runs/{run}")
async def run_page(
    request: Request, run: str, edge: AnEdge, q: Words = "", level: str = "", last: LastStep = None
) -> Response:
    """With `q` or `level` the log shows the lines that were looked for; with `to` no answers are shown of steps behind it."""

    def work(session: Session) -> RunPage:
        return described(session, runs.find(session, run), q, level, last)

    return draw(request, await edge.read(work))


@router.get("/runs/{run}/status")
async def run_status(request: Request, run: str, edge: AnEdge) -> Response:
    return draw(request, await edge.read(lambda session: status_part(session, runs.find(session, run))))


@router.get("/runs/{run}/artifacts")
async def run_artifacts(request: Request, run: str, edge: AnEdge) -> Response:
    def work(session: Session) -> ArtifactsPart:
        found = runs.find(session, run)
        return ArtifactsPart(reading.run_detail(session, found), reading.artifacts(session, found))

    return draw(request, await edge.read(work))


@router.get("/runs/{run}/history")
async def run_history(request: Request, run: str, edge: AnEdge) -> Response:
    return draw(request, await edge.read(lambda session: history_part(session, runs.find(session, run))))


@router.get("/runs/{run}/log")
async def run_log(request: Request, run: str, edge: AnEdge, q: Words = "", level: str = "") -> Response:
    def work(session: Session) -> RunLogPart:
        found = runs.find(session, run)
        return RunLogPart(reading.run_detail(session, found), **log_of(session, found, q, level))

    return draw(request, await edge.read(work))


@router.get("/runs/{run}/memory")
async def run_memory(request: Request, run: str, edge: AnEdge) -> Response:
    def work(session: Session) -> RunMemoryPart:
        found = runs.find(session, run)
        known = outlook(session, found)
        return RunMemoryPart(known, footprint_of(found, known))

    return draw(request, await edge.read(work))


@router.get("/runs/{run}/note")
async def run_note(request: Request, run: str, edge: AnEdge) -> Response:
    return draw(request, await edge.read(lambda session: note_part(session, runs.find(session, run))))


@router.post("/runs/{run}/note")
async def write_note(request: Request, run: str, form: Form, edge: AnEdge) -> Response:
    def work(session: Session) -> RunNotePart:
        found = own(edge, session, run)
        return note_part(session, runs.write_note(session, found.id, form.get("note", ""), edge.who.id))

    page = await edge.write(work)
    return draw(request, page) if request.headers.get("hx-request") else go(path_to("runs", page.run.name))


def note_part(session: Session, run: Run) -> RunNotePart:
    return RunNotePart(reading.run_detail(session, run))


def status_part(session: Session, run: Run) -> RunStatusPart:
    detail, found = reading.run_detail(session, run), outlook(session, run)
    return RunStatusPart(detail, found, reading.checkpoints(session, run.id), remedies(detail, found))


def history_part(session: Session, run: Run) -> RunHistoryPart:
    amendments, checkpoints = reading.amendments(session, run.id), reading.checkpoints(session, run.id)
    return RunHistoryPart(
        run=reading.run_detail(session, run),
        amendments=amendments,
        rates_ahead=rates_ahead(run, amendments),
        controls=amending.controls(amending.amended_recipe(run, amendments)),
        outlook=outlook(session, run),
        checkpoints=checkpoints,
        values=curves.values_at(session, run.id, ("loss", "eval_loss"), [each.step for each in checkpoints]),
        attempts=reading.attempts(session, run.id),
    )


def log_of(session: Session, run: Run, q: str, level: str) -> dict[str, Any]:
    """The words are looked for in the reader's language, so the template finds them; from far more lines than it shows."""
    limit = LOG_SEARCHED if q or level else LOG_SHOWN
    return {
        "log": [vars(line) for line in reading.log_lines(session, run.id, limit)],
        "log_q": q.strip(),
        "log_level": level,
    }


def samples_of(session: Session, run: Run, last: int | None) -> dict[str, Any]:
    """The first answers and the newest: a run may have asked many long prompts at each of its steps."""
    begin = journal.first_sampled(session, run.id)
    if begin is None:
        return {"samples": [], "left_out": None}
    first = reading.samples(session, run.id, begin, begin)
    newest = reading.samples(session, run.id, begin + 1, last, limit=SAMPLED_STEPS_SHOWN, room_bytes=SAMPLES_BYTES)
    shown = sorted([*first.samples, *newest.samples], key=lambda each: (each.step, each.index))
    return {"samples": shown, "left_out": None if newest.next is None else (begin + 1, newest.next)}


def described(session: Session, run: Run, q: str = "", level: str = "", last: int | None = None) -> RunPage:
    """Everything about a run, as it stands at one event: the page follows the events after `run.seq`."""
    history = history_part(session, run)
    return RunPage(
        **vars(history),
        **log_of(session, run, q, level),
        **samples_of(session, run, last),
        remedies=remedies(history.run, history.outlook),
        footprint=footprint_of(run, history.outlook),
        curves=dict(curves.read(session, run.id)),
        artifacts=reading.artifacts(session, run),
        settings=settings_of_run(session, run),
        recipe_yaml=as_yaml(run.recipe),
    )


def footprint_of(run: Run, found: Outlook) -> Footprint | None:
    """By the formula, for the accelerator that the run is or was on."""
    shape = shape_of(run.model.get("facts") or {})
    if shape is None or not found.device_bytes:
        return None
    return footprint(shape, read_recipe(run.recipe).recipe, on_cpu=run.facts.get("device") == "cpu")


def rates_ahead(run: Run, amendments: Sequence[AmendmentOut]) -> list[tuple[int, float]]:
    """The schedule as it goes on, changes in mid-run included; none for a run that has ended."""
    if run.state in ENDED or not run.total_steps:
        return []
    recipe = read_recipe(amending.amended_recipe(run, amendments)).recipe
    return schedules.to_come(recipe.training, run.total_steps)


def settings_of_run(session: Session, run: Run) -> list[Setting]:
    """Every setting in the recipe's order, with the parent's where it differs; what only the parent had stands at the end."""
    parent = session.get(Run, run.parent_id) if run.parent_id else None
    differing = {each["name"]: each for each in setting_differences(parent.recipe, run.recipe)} if parent else {}
    own_settings = dict(settings_of(run.recipe))
    gone = [name for name in differing if name not in own_settings]
    return [
        Setting(
            name, own_settings.get(name), differing[name]["before"] if name in differing else None, name in differing
        )
        for name in [*own_settings, *gone]
    ]


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
    by = edge.who.id
    return {
        "pause": partial(runs.pause, by=by),
        "resume": partial(runs.resume, by=by),
        "stop": partial(runs.stop, keep=True, by=by),
        "discard": partial(runs.stop, keep=False, by=by),
        "restore": partial(runs.restore, hours=edge.settings.discard_hours, by=by),
        "start_over": partial(runs.start_over, by=by),
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
