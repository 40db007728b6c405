"""Runs: launch them, look at them, tell them what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Query, Request
from pydantic import Field, JsonValue, StrictBool
from sqlalchemy.orm import Session
from starlette.responses import Response, StreamingResponse

from backend.core import curves, journal, run_list, runs
from backend.core.models import Run, RunEvent
from backend.core.outlook import steps_a_pass
from backend.core.run_list import Sort, Wanted
from backend.core.strict import Strict
from backend.core.yaml12 import as_yaml
from backend.web import launching, reading
from backend.web.deps import AnEdge, Edge, may_change
from backend.web.downloads import Answers, a_file, attachment
from backend.web.routers import api_router
from backend.web.shapes.common import LARGEST, Listing
from backend.web.shapes.runs import (
    AmendmentOut,
    ArtifactOut,
    AttemptOut,
    CheckpointOut,
    CurvesOut,
    EventOut,
    RunDetailOut,
    RunOut,
    SamplesOut,
    StateName,
)

router = api_router("/runs", "runs")

RunName = Annotated[str, Path(max_length=100, description="The run's name or id.", examples=["stories260k qlora"])]
Narrowed = Annotated[str, Query(max_length=200, description="Only runs with this name of it.")]
Names = Annotated[str, Query(max_length=2000, description="Metrics, comma-separated; all by default.")]
LOG_PAGE = 1000
RECIPE: Answers = {
    200: {
        "description": "The recipe.",
        "content": {"application/yaml": {"schema": {"type": "object", "title": "Recipe"}}},
    }
}
LOG = a_file("The log, as `format` asks.", "text/plain", "application/x-ndjson")


class Stop(Strict):
    """`keep` exports what was learned so far; without it the run is discarded, which can be undone for a day."""

    keep: StrictBool = Field(examples=[True])


class Amend(Strict):
    field: Literal["training.learning_rate", "evaluation.prompts", "evaluation.sample_steps", "training.max_steps"] = (
        Field(examples=["training.learning_rate"])
    )
    value: JsonValue = Field(examples=[1e-4])


class Change(Strict):
    """What may be changed of a run at any time."""

    note: str = Field(max_length=runs.NOTE_LENGTH, description="What people should know of it.", examples=["Rank 16."])


class Clone(Strict):
    """Settings that differ from the run that is cloned, as a recipe with just these."""

    changes: dict[str, Any] = Field(default_factory=dict, examples=[{"training": {"learning_rate": 1e-4}}])


@router.post("", status_code=201, openapi_extra=launching.RECIPE_BODY)
async def create(request: Request, edge: AnEdge) -> RunDetailOut:
    """Launch a run from a recipe, in JSON or YAML. It is checked whole before anything starts."""
    raw = await launching.raw_recipe(request)
    return await launching.launch(edge, raw)


@router.get("")
async def list_runs(
    edge: AnEdge,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: UUID | None = None,
    state: StateName | Literal["active"] | None = None,
    owner: Narrowed = "",
    model: Narrowed = "",
    data: Narrowed = "",
    q: Annotated[str, Query(max_length=200, description="Words in the name.")] = "",
    sort: Annotated[Sort, Query(description="A minus turns the order round.")] = Sort.NEWEST,
) -> Listing[RunOut]:
    """Runs, the newest first. `active` are those that a worker holds."""
    wanted = Wanted(state or "", owner, model, data, q, sort)

    def work(session: Session) -> Listing[RunOut]:
        rows = run_list.listing(session, wanted, limit=limit + 1, before=before)
        more = str(rows[limit - 1].id) if len(rows) > limit else None
        return Listing(items=reading.run_outs(session, rows[:limit]), next=more)

    return await edge.read(work)


@router.get("/{run}")
async def get(run: RunName, edge: AnEdge) -> RunDetailOut:
    return await edge.read(lambda session: reading.run_detail(session, runs.find(session, run)))


@router.patch("/{run}")
async def change(run: RunName, body: Change, edge: AnEdge) -> RunDetailOut:
    """Write the run's note. Whoever looks at the run sees it at once."""
    return await act(edge, run, partial(runs.write_note, text=body.note, by=edge.who.id))


@router.post("/{run}/stop")
async def stop(run: RunName, body: Stop, edge: AnEdge) -> RunDetailOut:
    """Finish the step, save and export (`keep`), or discard."""
    return await act(edge, run, partial(runs.stop, keep=body.keep, by=edge.who.id))


@router.post("/{run}/pause")
async def pause(run: RunName, edge: AnEdge) -> RunDetailOut:
    """Save, exit and free the accelerator."""
    return await act(edge, run, partial(runs.pause, by=edge.who.id))


@router.post("/{run}/resume")
async def resume(run: RunName, edge: AnEdge) -> RunDetailOut:
    """Go on from the newest valid checkpoint."""
    return await act(edge, run, partial(runs.resume, by=edge.who.id))


@router.post("/{run}/restore")
async def restore(run: RunName, edge: AnEdge) -> RunDetailOut:
    """Bring a discarded run back, as long as its files are there."""
    return await act(edge, run, partial(runs.restore, hours=edge.settings.discard_hours, by=edge.who.id))


@router.post("/{run}/start-over")
async def start_over(run: RunName, edge: AnEdge) -> RunDetailOut:
    """Give up the checkpoints on a host that is gone, and begin again elsewhere."""
    return await act(edge, run, partial(runs.start_over, by=edge.who.id))


async def act(edge: Edge, run: str, what: Any) -> RunDetailOut:
    """Do `what(session, run_id)` to one's own run and tell how it stands then."""
    return await edge.write(lambda session: reading.run_detail(session, what(session, own(edge, session, run).id)))


def own(edge: Edge, session: Session, name: str) -> Run:
    run = runs.find(session, name)
    may_change(edge.who, run.owner_id)
    return run


@router.post("/{run}/clone", status_code=201)
async def clone(run: RunName, body: Clone, edge: AnEdge) -> RunDetailOut:
    """Launch the same recipe again, as it was changed in mid-run, and with the changes given here."""

    def work(session: Session) -> tuple[UUID, dict[str, Any]]:
        parent = runs.find(session, run)
        return parent.id, runs.amended_recipe(session, parent)

    parent_id, recipe = await edge.read(work)
    return await launching.launch(edge, launching.changed(recipe, body.changes), parent_id=parent_id)


@router.get("/{run}/amendments")
async def amendments(run: RunName, edge: AnEdge) -> list[AmendmentOut]:
    """Changes in mid-run, in order."""
    return await edge.read(lambda session: reading.amendments(session, runs.find(session, run).id))


@router.post("/{run}/amendments", status_code=201)
async def amend(run: RunName, body: Amend, edge: AnEdge) -> AmendmentOut:
    """Change a setting while the run trains; it holds from the next step boundary on."""

    def work(session: Session) -> AmendmentOut:
        row = runs.amend(session, own(edge, session, run).id, body.field, body.value, edge.who.id)
        session.flush()
        return AmendmentOut.model_validate(row)

    return await edge.write(work)


@router.get("/{run}/metrics")
async def metrics(
    run: RunName,
    edge: AnEdge,
    names: Names = "",
    first: Annotated[int | None, Query(alias="from", ge=0, le=LARGEST, description="First step.")] = None,
    last: Annotated[int | None, Query(alias="to", ge=0, le=LARGEST, description="Last step.")] = None,
    points: Annotated[int, Query(ge=10, le=20_000, description="About how many points a curve.")] = 1000,
    times: Annotated[bool, Query(description="Tell when each of the steps was measured, too.")] = False,
) -> CurvesOut:
    """Curves, thinned to about `points` without losing an extreme; narrow the steps to see single ones."""

    def work(session: Session) -> CurvesOut:
        found = runs.find(session, run)
        wanted = [name for name in names.split(",") if name]
        drawn = curves.read(session, found.id, wanted, first=first, last=last, points=points)
        when = curves.times(session, found.id, drawn) if times else []
        told = {"times": when, "steps_a_pass": steps_a_pass(session, found.id)}
        return CurvesOut.model_validate({"curves": drawn, "seq": found.seq} | told)

    return await edge.read(work)


@router.get("/{run}/samples")
async def samples(
    run: RunName,
    edge: AnEdge,
    first: Annotated[int, Query(alias="from", ge=0, le=LARGEST, description="First step.")] = 0,
    last: Annotated[int | None, Query(alias="to", ge=0, le=LARGEST, description="Last step.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="At most the answers of so many steps.")] = 50,
) -> SamplesOut:
    """What the model answered to the run's prompts, the newest step first: at `limit` steps, or fewer where answers are long, for
    a page ends at about 8 MiB. `next` is the `to` of the page behind it."""

    def work(session: Session) -> SamplesOut:
        return reading.samples(session, runs.find(session, run).id, first, last, limit=limit)

    return await edge.read(work)


@router.get("/{run}/checkpoints")
async def checkpoints(run: RunName, edge: AnEdge) -> list[CheckpointOut]:
    """What the run can go on from, the newest first."""
    return await edge.read(lambda session: reading.checkpoints(session, runs.find(session, run).id))


@router.get("/{run}/attempts")
async def attempts(run: RunName, edge: AnEdge) -> list[AttemptOut]:
    """Which workers took the run, the newest attempt first, and why each ended."""
    return await edge.read(lambda session: reading.attempts(session, runs.find(session, run).id))


@router.get("/{run}/artifacts")
async def artifacts(run: RunName, edge: AnEdge) -> list[ArtifactOut]:
    return await edge.read(lambda session: reading.artifacts(session, runs.find(session, run)))


@router.get("/{run}/recipe", response_class=Response, responses=RECIPE)
async def recipe(run: RunName, edge: AnEdge) -> Response:
    """The recipe in YAML, every setting written out, as the run was launched with it."""
    found = await edge.read(lambda session: runs.find(session, run))
    return Response(as_yaml(found.recipe), media_type="application/yaml", headers=named(f"{found.name}.yaml"))


@router.get("/{run}/log", response_class=StreamingResponse, responses=LOG)
async def log(
    run: RunName,
    edge: AnEdge,
    form: Annotated[
        Literal["text", "jsonl"], Query(alias="format", description="`jsonl` holds every event, metrics too.")
    ] = "text",
) -> StreamingResponse:
    """The run's events from the first on: as lines of text, or each whole as one line of JSON."""
    found = await edge.read(lambda session: runs.find(session, run))
    told = event_line if form == "jsonl" else text_line
    media_type = "application/x-ndjson" if form == "jsonl" else "text/plain; charset=utf-8"
    headers = named(f"{found.name} log.{'jsonl' if form == 'jsonl' else 'txt'}")
    return StreamingResponse(log_pages(edge, found.id, told), media_type=media_type, headers=headers)


async def log_pages(edge: Edge, run_id: UUID, told: Callable[[RunEvent], str]) -> AsyncIterator[str]:
    """A page of events at a time, so that a log of any length takes little memory."""
    after = 0
    while page := await edge.read(partial(journal.events, run_id=run_id, after=after, limit=LOG_PAGE)):
        yield "".join(told(event) for event in page)
        after = page[-1].seq


def event_line(event: RunEvent) -> str:
    fields = {key: getattr(event, key) for key in ("seq", "at", "kind", "step", "attempt", "data")}
    return EventOut.model_validate(fields | {"run": event.run_id}).model_dump_json() + "\n"


def text_line(event: RunEvent) -> str:
    """Nothing for what has places of its own: metrics, samples, progress."""
    if event.kind in reading.QUIET:
        return ""
    return f"{event.at:%Y-%m-%d %H:%M:%S} step {event.step}: {reading.in_words(event)}\n"


def named(name: str) -> dict[str, str]:
    return {"Content-Disposition": attachment(name)}
