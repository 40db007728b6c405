"""The form of a new run: simple, advanced or as YAML, with the preflight beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import recipes, run_list, runs
from backend.core.catalog import METHODS
from backend.core.datasets import store
from backend.core.difference import SettingDifference, setting_differences
from backend.core.errors import Conflict, StudioError
from backend.core.launch import held_back_prompts, pin
from backend.core.prospects import Prospect
from backend.core.recipe import read_recipe
from backend.web import base_models, drafts, launching, previews, reading, repeats
from backend.web.api.datasets import Template
from backend.web.api.recipes import keep, one
from backend.web.contexts.new_run import FirstRowPart, NewRunPage, Preflight, PreflightPart
from backend.web.deps import AnEdge, Edge
from backend.web.drafts import VIEWS, Draft, draft_from, form_of
from backend.web.failures import problem_out
from backend.web.foresight import foresee, refusal
from backend.web.forms import recipe_from_form
from backend.web.pages.common import Pairs, draw, go, path_to
from backend.web.repeats import Repeated
from backend.web.routers import page_router
from backend.web.shapes.common import ProblemOut
from backend.web.shapes.datasets import DatasetOut
from backend.web.shapes.launch import RecipeOut
from backend.web.shapes.models import BaseOut

router = page_router()

LATELY = 8
MOST_PROMPTS = 16
Taken = Annotated[int, Query(ge=0, le=MOST_PROMPTS)]
ROUTE = "/runs"


@router.get("/runs/new")
async def new_run_page(
    request: Request, edge: AnEdge, view: str = "simple", clone: str = "", recipe: str = "", dataset: str = ""
) -> Response:
    """An empty form, or one that is filled from a run, a saved recipe, a data set or a model. Any setting may stand in the
    address under its name: `/runs/new?clone=first&training.learning_rate=1e-4`."""
    changes = from_address(request.query_params.multi_items(), dataset)
    models = await edge.listed(base_models.base_outs, edge.settings)

    def work(session: Session) -> Draft:
        if clone:
            parent = runs.find(session, clone)
            return Draft(launching.changed(runs.amended_recipe(session, parent), changes), parent=parent.name)
        if recipe:
            body = recipes.version(session, recipe).body
            return Draft(launching.changed(body, changes), recipe=recipe.strip())
        return Draft(_only_choices(changes, models, reading.dataset_outs(session)))

    draft = await edge.read(work)
    checked = await preflight(edge, draft, reads_rows=False)
    return await drawn(request, edge, draft, checked, view=view, models=models)


SHORT = {"model": "model.path", "max_length": "data.max_length", "truncation": "data.truncation"}
"""Settings that other pages link to by a short name."""


def from_address(query: list[tuple[str, str]], dataset: str) -> dict[str, Any]:
    """The settings that an address names."""
    pairs = [(SHORT.get(name, name), value) for name, value in query]
    sets = [("data.sets.0.name", dataset)] if dataset else []
    return recipe_from_form([each for each in pairs if "." in each[0]] + sets)


def _only_choices(raw: dict[str, Any], models: list[BaseOut], datasets: list[DatasetOut]) -> dict[str, Any]:
    """With the one model and the one data set chosen that there are."""
    usable = [each.path for each in models if each.problem is None]
    if "model" not in raw and len(usable) == 1:
        raw = {"model": {"path": usable[0]}} | raw
    data = raw.get("data", {})
    if "sets" not in data and len(datasets) == 1:
        raw = raw | {"data": data | {"sets": [{"name": datasets[0].name}]}}
    return raw


@router.post("/runs/new")
async def redraw(
    request: Request, pairs: Pairs, edge: AnEdge, view: str = "", whole: bool = False, take: Taken = 0
) -> Response:
    """The same run in another view, or with other settings after a choice that changes which there are; with prompts
    taken from rows that are held back."""
    draft = draft_from(pairs)
    if take:
        draft = await with_prompts(edge, draft, take)
    checked = await preflight(edge, draft, reads_rows=False)
    wanted = draft.view if draft.refusal or view not in VIEWS or draft.fields.get("restored") else view
    page = await drawn(request, edge, draft, checked, view=wanted, whole=whole)
    page.headers["HX-Replace-Url"] = address(draft, wanted)
    return page


async def with_prompts(edge: Edge, draft: Draft, count: int) -> Draft:
    """The draft with questions of held-back rows behind its own prompts. Where there are none it stays as it is."""
    try:
        pinned = await edge.read(lambda session: pin(session, draft.raw))
        asked = await edge.apart(held_back_prompts, pinned, edge.settings, count)
    except StudioError:
        return draft
    own = draft.raw.get("evaluation", {})
    prompts = [*own.get("prompts", []), *asked]
    return replace(
        draft, raw={**draft.raw, "evaluation": own | {"prompts": list(dict.fromkeys(prompts))[:MOST_PROMPTS]}}
    )


def address(draft: Draft, view: str) -> str:
    """Where the same form is found: the choice of view, and what it started from."""
    source = {"clone": draft.parent, "recipe": draft.recipe}
    return "/runs/new?" + urlencode({"view": view} | {name: value for name, value in source.items() if value})


@router.post("/runs/preflight")
async def preflight_part(request: Request, pairs: Pairs, edge: AnEdge, part: str = "quick") -> Response:
    """`quick`: what figures tell at once. `deep`: the rows are read, and until that is done its progress is told."""
    draft = draft_from(pairs)
    checked = await preflight(edge, draft, reads_rows=part == "deep")
    return draw(request, PreflightPart(form_of(draft, draft.view, checked.problems), checked))


@router.get("/runs/new/row")
async def first_row(
    request: Request,
    edge: AnEdge,
    dataset: str,
    model: str,
    version: int | None = None,
    chat_template: Template = "auto",
) -> Response:
    """The first row of the chosen data under the chosen model."""
    lens = previews.Lens(model, chat_template, {})
    try:
        found = await edge.read(lambda session: store.version(session, dataset, version))
        answer = await edge.apart(previews.preview, edge.settings, found, dataset, lens, 0, 1)
    except StudioError as error:
        return draw(request, FirstRowPart(None, problem_out(error)))
    return draw(request, FirstRowPart(next(iter(answer["rows"]), None)))


@router.post("/runs/recipe")
async def save_recipe(request: Request, pairs: Pairs, edge: AnEdge) -> Response:
    """The recipe under the name `save_as`, as a new version where the name is there already."""
    draft = draft_from(pairs)
    name = draft.fields.get("save_as", "").strip()

    def work(session: Session) -> RecipeOut:
        keep(session, edge, name, draft.raw)
        return one(session, name)

    try:
        if draft.refusal:
            raise draft.refusal
        saved = await edge.write(work)
    except StudioError as error:
        return await drawn(request, edge, draft, refused(error, draft), status=error.status)
    draft = replace(draft, recipe=saved.name, parent="")
    page = await drawn(request, edge, draft, await preflight(edge, draft, reads_rows=False), saved=saved)
    page.headers["HX-Replace-Url"] = address(draft, draft.view)
    return page


@router.post("/runs")
async def launch(request: Request, pairs: Pairs, edge: AnEdge) -> Response:
    """Starts one run, however often the same form is sent: whoever sends it again is led to that run, and told of it where the
    values are others by then."""
    draft = draft_from(pairs)
    try:
        if draft.refusal:
            raise draft.refusal
        parent_id = await edge.read(lambda session: runs.find(session, draft.parent).id if draft.parent else None)
        run = await launching.launch(once(edge, draft), draft.raw, parent_id=parent_id)
    except Repeated as repeated:
        return go(path_to("runs", repeated.answer["name"]))
    except repeats.KeyTaken as taken:
        return await drawn(request, edge, draft, refused(sent_before(taken), draft), status=taken.status)
    except StudioError as error:
        return await drawn(request, edge, draft, refused(error, draft), status=error.status)
    return go(path_to("runs", run.name))


def once(edge: Edge, draft: Draft) -> Edge:
    """An edge that writes once for each drawn form, as the API's does for each `Idempotency-Key`."""
    word = draft.fields.get("once", "")
    if not word:
        return edge
    key, values = repeats.check_key(word), json.dumps([draft.raw, draft.parent], sort_keys=True, default=str)
    print_ = repeats.fingerprint(key, "POST", ROUTE, values.encode())
    return replace(edge, key=repeats.stored(key), fingerprint=print_, status=303)


def sent_before(taken: repeats.KeyTaken) -> Conflict:
    """Of a form whose first answer was lost, and which was changed before it was sent again."""
    name = taken.answer["name"] if taken.answer else ""
    return Conflict(
        f"This form has started the run “{name}” already, with other values.",
        hint="Look at that run. To start one with these values too, start again.",
        code="form.sent",
    )


async def drawn(
    request: Request,
    edge: Edge,
    draft: Draft,
    checked: Preflight,
    *,
    view: str = "",
    whole: bool = False,
    status: int | None = None,
    models: list[BaseOut] | None = None,
    saved: RecipeOut | None = None,
) -> Response:
    models = await edge.listed(base_models.base_outs, edge.settings) if models is None else models
    form = form_of(draft, view if view in VIEWS else draft.view, checked.problems, whole=whole)
    if form.view == "yaml":
        checked = replace(checked, lines=drafts.lines_of(checked.places, drafts.read(replace(draft, yaml=form.yaml))))

    def work(session: Session) -> NewRunPage:
        source = next(iter(reading.recipe_outs(session, draft.recipe)), None) if draft.recipe else None
        return NewRunPage(
            form=form,
            preflight=checked,
            datasets=reading.dataset_outs(session),
            models=models,
            recipes=reading.recipe_outs(session, limit=LATELY),
            lately=reading.run_outs(session, run_list.listing(session, limit=LATELY)),
            differences=differences(session, draft, source),
            methods=METHODS,
            saved=saved,
        )

    return draw(request, await edge.read(work), status=status)


def differences(session: Session, draft: Draft, source: RecipeOut | None) -> list[SettingDifference]:
    """In which settings this differs from what it started from; nothing while it cannot be understood."""
    try:
        now = read_recipe(draft.raw).recipe.model_dump(mode="json")
        before: Mapping[str, Any] | None = source.version.body if source else None
        if draft.parent:
            before = runs.amended_recipe(session, runs.find(session, draft.parent))
    except StudioError:
        return []
    return setting_differences(before, now) if before else []


# ---- the preflight --------------------------------------------------------------------------------------------------


async def preflight(edge: Edge, draft: Draft, *, reads_rows: bool) -> Preflight:
    """What would happen now. A recipe that is not whole is told so without touching model or data."""
    if draft.lacks_a_choice:
        return Preflight()
    try:
        if draft.refusal:
            raise draft.refusal
        return told(await foresee(edge, draft.raw, reads_rows=reads_rows), draft)
    except StudioError as error:
        return refused(error, draft)


def told(prospect: Prospect, draft: Draft) -> Preflight:
    problems = [ProblemOut.model_validate(problem) for problem in prospect.problems]
    checked = Preflight(prospect, problems=problems)
    return replace(checked, lines=drafts.lines_of(checked.places, draft))


def refused(error: StudioError, draft: Draft) -> Preflight:
    """An error that names its place stands in the list of problems, beside the place."""
    problems = [ProblemOut.model_validate(problem) for problem in refusal(error)]
    whole = problem_out(error) if error.problems or not problems else None
    return Preflight(
        error=whole, problems=problems, lines=drafts.lines_of([each.where or "" for each in problems], draft)
    )
