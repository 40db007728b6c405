"""Saved recipes, and one of them."""

from __future__ import annotations

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import recipes
from backend.core.difference import setting_differences
from backend.core.errors import Invalid, NotFound
from backend.core.recipe import read_recipe
from backend.core.yaml12 import as_yaml
from backend.web import reading
from backend.web.api.recipes import one
from backend.web.contexts.rooms import RecipePage, RecipesPage
from backend.web.deps import AnEdge, may_change
from backend.web.pages.common import draw, go
from backend.web.routers import page_router
from backend.web.shapes.common import Json
from backend.web.shapes.launch import RecipeVersionOut

router = page_router()


@router.get("/recipes")
async def recipes_page(request: Request, edge: AnEdge) -> Response:
    return draw(request, RecipesPage(await edge.read(reading.recipe_outs)))


@router.get("/recipes/{recipe}")
async def recipe_page(request: Request, recipe: str, edge: AnEdge, version: int | None = None) -> Response:
    return draw(request, await edge.read(lambda session: described(session, recipe, version)))


def described(session: Session, name: str, number: int | None) -> RecipePage:
    """One version, the newest by default, beside the one before it. Raises `NotFound`."""
    found = one(session, name)
    history = [RecipeVersionOut.model_validate(row) for row in recipes.versions(session, name)]
    by_number = {version.number: version for version in history}
    shown = by_number.get(number or found.versions)
    if shown is None:
        raise NotFound(f"The recipe “{name}” has no version {number}.", hint="Its page lists them.")
    before = by_number.get(shown.number - 1)
    changes = setting_differences(before.body, shown.body) if before else []
    return RecipePage(found, shown.number, history, as_yaml(in_order(shown.body)), changes)


def in_order(body: Json) -> Json:
    """The settings in the order of the form: the database keeps none. A recipe of another time is shown as it is."""
    try:
        return read_recipe(body).recipe.model_dump(mode="json", exclude={"name"})
    except Invalid:
        return body


@router.post("/recipes/{recipe}/delete")
async def delete(recipe: str, edge: AnEdge) -> Response:
    def work(session: Session) -> None:
        may_change(edge.who, recipes.find(session, recipe).owner_id)
        recipes.delete(session, recipe, by=edge.who.id)

    await edge.write(work)
    return go("/recipes")
