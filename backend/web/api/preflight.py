"""What a launch would do, without launching."""

from __future__ import annotations

from fastapi import Request

from backend.core.advice import Advice
from backend.core.forecast import Need
from backend.web import launching
from backend.web.deps import AnEdge
from backend.web.foresight import foresee
from backend.web.routers import api_router
from backend.web.shapes.common import ProblemOut
from backend.web.shapes.launch import AdviceOut, NeedOut, PreflightOut, RemedyOut

router = api_router("/preflight", "runs")


@router.post("", openapi_extra=launching.RECIPE_BODY)
async def preflight(request: Request, edge: AnEdge) -> PreflightOut:
    """Check a recipe, in JSON or YAML, against its model and data: what would be read and learned, how many steps that
    makes, what it takes in memory and time, and everything that stands in the way. Its model must lie here: a preflight
    downloads nothing."""
    raw = await launching.raw_recipe(request)
    plan = await launching.plan(edge, raw)
    prospect = await foresee(edge, raw, reads_rows=False)
    return PreflightOut(
        recipe=plan.recipe.model_dump(mode="json"),
        problems=[ProblemOut.model_validate(problem) for problem in plan.problems],
        notes=[ProblemOut.model_validate(note) for note in plan.pinned.notes],
        report=plan.report,
        steps=plan.steps,
        facts=plan.facts,
        needs=[need_out(need) for need in prospect.needs],
        tokens_read=prospect.tokens[0] if prospect.tokens else None,
        tokens_learned=prospect.tokens[1] if prospect.tokens else None,
        disk_bytes=prospect.disk_needed,
        advice=[advice_out(each) for each in prospect.advice],
    )


def need_out(need: Need) -> NeedOut:
    kind = need.accelerator
    return NeedOut(
        title=kind.title,
        workers=list(kind.workers),
        memory_bytes=kind.memory_bytes,
        needed_bytes=need.footprint.total,
        parts=need.footprint.parts,
        verdict=need.verdict,
        seconds=need.seconds,
    )


def advice_out(advice: Advice) -> AdviceOut:
    ways = [RemedyOut(words=way.words, settings=dict(way.settings)) for way in advice.remedies]
    return AdviceOut(**advice.problem.as_json(), is_serious=advice.is_serious, remedies=ways)
