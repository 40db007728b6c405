"""The form of a new run, in fields or as YAML, with the preflight beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import recipes, runs
from backend.core.errors import Problem, StudioError
from backend.core.launch import Plan
from backend.core.recipe import read_recipe, translate_old_names
from backend.core.yaml12 import read_yaml
from backend.web import launching, previews, reading
from backend.web.api.recipes import keep
from backend.web.contexts import NewRunPage, Preflight
from backend.web.deps import AnEdge, Edge
from backend.web.failures import problem_out
from backend.web.forms import recipe_controls, recipe_from_form
from backend.web.pages.common import Pairs, draw, go, path_to
from backend.web.pages.runs import as_yaml
from backend.web.shapes import ProblemOut

router = APIRouter()


@dataclass(frozen=True)
class Draft:
    """What the form says at this moment."""

    raw: Mapping[str, Any]
    view: str = "form"
    yaml: str = ""
    """As it was typed, in the YAML view."""
    parent: str = ""
    save_as: str = ""
    refusal: StudioError | None = None
    """YAML that cannot be read."""
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def lacks_a_choice(self) -> bool:
        """Model or data are still to be chosen: a preflight would only scold."""
        model, data = self.raw.get("model"), self.raw.get("data")
        has_model = model.get("path") if isinstance(model, Mapping) else model
        return self.view == "form" and not (has_model and isinstance(data, Mapping) and data.get("sets"))


def draft_from(pairs: Pairs) -> Draft:
    fields = dict(pairs)
    view = "yaml" if fields.get("view") == "yaml" else "form"
    parent, save_as = fields.get("parent", ""), fields.get("save_as", "").strip()
    empty = Draft({}, view, fields.get("yaml", ""), parent, save_as, fields=fields)
    if view == "form":
        return replace(empty, raw=recipe_from_form(pairs))
    try:
        raw = read_yaml(empty.yaml)[0]
    except StudioError as error:
        return replace(empty, refusal=error)
    return replace(empty, raw=raw if isinstance(raw, Mapping) else {})


@router.get("/runs/new")
async def new_run_page(
    request: Request, edge: AnEdge, clone: str = "", recipe: str = "", dataset: str = "", model: str = ""
) -> Response:
    """An empty form, or one that is filled from a run, a saved recipe, a data set or a model."""

    def work(session: Session) -> Draft:
        if clone:
            parent = runs.find(session, clone)
            return Draft(launching.changed(runs.amended_recipe(session, parent), {}), parent=parent.name)
        if recipe:
            return Draft(recipes.versions(session, recipe)[0].body)
        raw: dict[str, Any] = {"model": {"path": model}} if model else {}
        return Draft(raw | ({"data": {"sets": [{"name": dataset}]}} if dataset else {}))

    draft = await edge.read(work)
    return await drawn(request, edge, draft, await preflight(edge, draft))


@router.post("/runs/preflight")
async def preflight_page(request: Request, pairs: Pairs, edge: AnEdge) -> Response:
    """The same page again, checked; `show` changes between the form and YAML."""
    draft = draft_from(pairs)
    wanted = draft.fields.get("show", draft.view)
    checked = await preflight(edge, draft)
    if wanted != draft.view and not draft.refusal:
        draft = replace(draft, view=wanted, yaml=as_yaml(dict(draft.raw)))
    return await drawn(request, edge, draft, checked)


@router.post("/runs")
async def launch(request: Request, pairs: Pairs, edge: AnEdge) -> Response:
    draft = draft_from(pairs)
    try:
        if draft.refusal:
            raise draft.refusal
        parent_id = await edge.read(lambda session: parent_of(session, draft))
        if draft.save_as:
            await edge.write(lambda session: keep(session, edge, draft.save_as, draft.raw))
        run = await launching.launch(edge, draft.raw, parent_id=parent_id)
    except StudioError as error:
        return await drawn(request, edge, draft, refused(error), status=error.status)
    return go(path_to("runs", run.name))


def parent_of(session: Session, draft: Draft) -> UUID | None:
    return runs.find(session, draft.parent).id if draft.parent else None


async def drawn(
    request: Request, edge: Edge, draft: Draft, checked: Preflight, *, status: int | None = None
) -> Response:
    models = await asyncio.to_thread(previews.base_outs, edge.settings)
    problems = [Problem(each.code, each.message, each.where or "", each.hint or "") for each in checked.problems]
    body, _ = translate_old_names(draft.raw)

    def work(session: Session) -> NewRunPage:
        return NewRunPage(
            controls=recipe_controls(body, problems),
            view=draft.view,
            yaml=draft.yaml or as_yaml(dict(draft.raw)),
            preflight=checked,
            datasets=reading.dataset_outs(session),
            models=models,
            recipes=[recipe.name for recipe in reading.recipe_outs(session)],
            parent=draft.parent,
            save_as=draft.save_as,
        )

    return draw(request, await edge.read(work), status=status)


async def preflight(edge: Edge, draft: Draft) -> Preflight:
    """What would happen now. A recipe that is not whole is told so without touching model or data."""
    if draft.lacks_a_choice:
        return Preflight()
    try:
        if draft.refusal:
            raise draft.refusal
        notes = [ProblemOut.model_validate(note) for note in read_recipe(draft.raw).notes]
        return planned(await launching.plan(edge, draft.raw), notes)
    except StudioError as error:
        return refused(error)


def planned(plan: Plan, notes: list[ProblemOut]) -> Preflight:
    problems = [ProblemOut.model_validate(problem) for problem in plan.problems]
    steps = plan.steps or {}
    report = plan.report and plan.report | {"steps": steps.get("total"), "global_batch": steps.get("rows")}
    return Preflight(report=report, problems=problems, notes=notes)


def refused(error: StudioError) -> Preflight:
    """An error that names its place stands in the list of problems, beside the place."""
    own = (Problem(error.code, error.message, error.where, error.hint),) if error.where else ()
    problems = [ProblemOut.model_validate(problem) for problem in error.problems or own]
    return Preflight(error=None if own and not error.problems else problem_out(error), problems=problems)
