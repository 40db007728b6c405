"""Runs: launch them, look at them, tell them what to do."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field, JsonValue
from sqlalchemy.orm import Session
from starlette.responses import PlainTextResponse

from backend.core import journal, runs
from backend.core.models import Run
from backend.core.strict import Strict
from backend.web import launching, reading
from backend.web.deps import AnEdge, Edge, may_change
from backend.web.shapes import (
    AmendmentOut,
    ArtifactOut,
    AttemptOut,
    CheckpointOut,
    CurvesOut,
    Listing,
    RunDetailOut,
    RunOut,
    SampleOut,
    StateName,
)

router = APIRouter(prefix="/runs", tags=["runs"])

RunName = Annotated[str, Path(max_length=100, description="The run's name or id.", examples=["stories260k qlora"])]
Names = Annotated[str, Query(max_length=2000, description="Metrics, comma-separated; all by default.")]
LOG_EVENTS = 100_000


class Stop(Strict):
    """`keep` exports what was learned so far; without it the run is discarded, which can be undone for a day."""

    keep: bool = Field(examples=[True])


class Amend(Strict):
    field: Literal["training.learning_rate", "evaluation.prompts", "evaluation.sample_steps", "training.max_steps"] = (
        Field(examples=["training.learning_rate"])
    )
    value: JsonValue = Field(examples=[1e-4])


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
    state: StateName | None = None,
) -> Listing[RunOut]:
    """Runs, the newest first."""

    def work(session: Session) -> Listing[RunOut]:
        rows = runs.listing(session, limit=limit + 1, before=before, state=state)
        more = str(rows[limit - 1].id) if len(rows) > limit else None
        return Listing(items=reading.run_outs(session, rows[:limit]), next=more)

    return await edge.read(work)


@router.get("/{run}")
async def get(run: RunName, edge: AnEdge) -> RunDetailOut:
    return await edge.read(lambda session: reading.run_detail(session, runs.find(session, run)))


@router.post("/{run}/stop")
async def stop(run: RunName, body: Stop, edge: AnEdge) -> RunDetailOut:
    """Finish the step, save and export (`keep`), or discard."""
    return await act(edge, run, partial(runs.stop, keep=body.keep))


@router.post("/{run}/pause")
async def pause(run: RunName, edge: AnEdge) -> RunDetailOut:
    """Save, exit and free the accelerator."""
    return await act(edge, run, runs.pause)


@router.post("/{run}/resume")
async def resume(run: RunName, edge: AnEdge) -> RunDetailOut:
    """Go on from the newest valid checkpoint."""
    return await act(edge, run, runs.resume)


@router.post("/{run}/restore")
async def restore(run: RunName, edge: AnEdge) -> RunDetailOut:
    """Bring a discarded run back, as long as its files are there."""
    return await act(edge, run, partial(runs.restore, hours=edge.settings.discard_hours))


@router.post("/{run}/start-over")
async def start_over(run: RunName, edge: AnEdge) -> RunDetailOut:
    """Give up the checkpoints on a host that is gone, and begin again elsewhere."""
    return await act(edge, run, runs.start_over)


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
    first: Annotated[int | None, Query(alias="from", ge=0, description="First step.")] = None,
    last: Annotated[int | None, Query(alias="to", ge=0, description="Last step.")] = None,
    points: Annotated[int, Query(ge=10, le=20_000, description="About how many points a curve.")] = 1000,
) -> CurvesOut:
    """Curves, thinned to about `points` without losing an extreme; narrow the steps to see single ones."""

    def work(session: Session) -> CurvesOut:
        found = runs.find(session, run)
        wanted = [name for name in names.split(",") if name]
        curves = journal.curves(session, found.id, wanted, first=first, last=last, points=points)
        return CurvesOut.model_validate({"curves": curves, "seq": found.seq})

    return await edge.read(work)


@router.get("/{run}/samples")
async def samples(run: RunName, edge: AnEdge) -> list[SampleOut]:
    """What the model answered to the run's prompts, step by step."""
    return await edge.read(lambda session: reading.samples(session, runs.find(session, run).id))


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


@router.get("/{run}/log", response_class=PlainTextResponse)
async def log(run: RunName, edge: AnEdge) -> PlainTextResponse:
    """The run's events as lines of text."""
    lines = await edge.read(lambda session: reading.log_lines(session, runs.find(session, run).id, LOG_EVENTS))
    text = "".join(f"{line.at:%Y-%m-%d %H:%M:%S} step {line.step}: {line.text}\n" for line in lines)
    return PlainTextResponse(text)
