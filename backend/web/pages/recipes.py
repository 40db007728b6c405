"""Saved recipes, and one of them."""

from __future__ import annotations

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import recipes
from backend.core.difference import setting_differences
from backend.core.errors import Invalid
from backend.core.recipe import read_recipe
from backend.core.yaml12 import as_yaml
from backend.web import reading
from backend.web.api.recipes import one
from backend.web.contexts.rooms import RecipePage, RecipesPage
from backend.web.deps import AnEdge, Offset, may_change
from backend.web.pages.common import draw, go
from backend.web.routers import page_router
from backend.web.shapes.common import Json

router = page_router()


@router.get("/recipes")
async def recipes_page(request: Request, edge: AnEdge, offset: Offset = 0) -> Response:
    def work(session: Session) -> RecipesPage:
        shown = reading.recipe_outs(session, offset=offset)
        behind = offset + len(shown)
        return RecipesPage(shown, behind if shown and behind < recipes.count(session) else None)

    return draw(request, await edge.read(work))


@router.get("/recipes/{recipe}")
async def recipe_page(request: Request, recipe: str, edge: AnEdge, version: int | None = None) -> Response:
    return draw(request, await edge.read(lambda session: described(session, recipe, version)))


def described(session: Session, name: str, number: int | None) -> RecipePage:
    """One version, the newest by default, beside the one before it. Raises `NotFound`."""
    found = one(session, name)
    shown = recipes.version(session, name, number or None)
    before = recipes.version(session, name, shown.number - 1) if shown.number > 1 else None
    changes = setting_differences(before.body, shown.body) if before else []
    history = recipes.history(session, name)
    return RecipePage(found, shown.number, shown.body, history, as_yaml(in_order(shown.body)), changes)


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
