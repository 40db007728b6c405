"""What a launch would do, without launching."""

from __future__ import annotations

from fastapi import APIRouter, Request

from backend.web import launching
from backend.web.deps import AnEdge
from backend.web.shapes import PreflightOut, ProblemOut

router = APIRouter(prefix="/preflight", tags=["runs"])


@router.post("", openapi_extra=launching.RECIPE_BODY)
async def preflight(request: Request, edge: AnEdge) -> PreflightOut:
    """Check a recipe, in JSON or YAML, against its model and data: what would be read and learned, how many steps that
    makes, and everything that stands in the way."""
    plan = await launching.plan(edge, await launching.raw_recipe(request))
    return PreflightOut(
        recipe=plan.recipe.model_dump(mode="json"),
        problems=[ProblemOut.model_validate(problem) for problem in plan.problems],
        notes=[ProblemOut.model_validate(note) for note in plan.pinned.notes],
        report=plan.report,
        steps=plan.steps,
        facts=plan.facts,
    )
