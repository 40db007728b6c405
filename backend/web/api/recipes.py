"""Recipes saved by name. Saving again makes a new version; a version never changes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import Field
from sqlalchemy.orm import Session

from backend.core import recipes
from backend.core.errors import NotFound
from backend.core.strict import Strict
from backend.web import launching, reading
from backend.web.deps import AnEdge, Edge, Offset, may_change
from backend.web.routers import api_router
from backend.web.shapes.common import MOST
from backend.web.shapes.launch import RecipeOut, RecipeVersionOut
from backend.web.shapes.runs import RunDetailOut

router = api_router("/recipes", "recipes")

RecipeName = Annotated[str, Path(max_length=100, description="The recipe's name.", examples=["support style"])]


class SaveRecipe(Strict):
    name: str = Field(examples=["support style"])
    recipe: dict[str, Any] = Field(examples=[{"model": "stories260k", "data": {"sets": ["alpaca"]}, "method": "qlora"}])


@router.post("", status_code=201)
async def save(body: SaveRecipe, edge: AnEdge) -> RecipeOut:
    """Save a recipe, or its next version where the name is there already."""

    def work(session: Session) -> RecipeOut:
        keep(session, edge, body.name, body.recipe)
        return one(session, body.name)

    return await edge.write(work)


def keep(session: Session, edge: Edge, name: str, recipe: Any) -> None:
    """Save it under a name that is free or one's own: a name that others launch by does not change under their hands."""
    recipes.save(session, name, recipe, by=edge.who.id)
    may_change(edge.who, recipes.find(session, name).owner_id)


def one(session: Session, name: str) -> RecipeOut:
    found = reading.recipe_outs(session, name.strip())
    if not found:
        raise NotFound(f"There is no recipe “{name}”.")
    return found[0]


@router.get("")
async def list_recipes(
    edge: AnEdge,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Offset = 0,
) -> list[RecipeOut]:
    """Saved recipes, the latest changed first: `limit` of them, or fewer where they are long, for a page ends at about 8 MiB. The
    next one begins at `offset` and as many as came."""
    return await edge.read(lambda session: reading.recipe_outs(session, limit=limit, offset=offset))


@router.get("/{recipe}")
async def get(recipe: RecipeName, edge: AnEdge) -> RecipeOut:
    return await edge.read(lambda session: one(session, recipe))


@router.get("/{recipe}/versions")
async def versions(
    recipe: RecipeName,
    edge: AnEdge,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    before: Annotated[int | None, Query(ge=1, le=MOST, description="Only versions before this one.")] = None,
) -> list[RecipeVersionOut]:
    """Its versions, the newest first: `limit` of them, or fewer where they are long, for a page ends at about 8 MiB. Unless the
    last one is version 1, there are more before it."""

    def work(session: Session) -> list[RecipeVersionOut]:
        return [RecipeVersionOut.model_validate(row) for row in recipes.versions(session, recipe, before, limit)]

    return await edge.read(work)


@router.post("/{recipe}/launch", status_code=201)
async def launch(recipe: RecipeName, edge: AnEdge) -> RunDetailOut:
    """Launch the newest version."""
    version = await edge.read(lambda session: recipes.version(session, recipe))
    return await launching.launch(edge, version.body, recipe_version_id=version.id)


@router.delete("/{recipe}", status_code=204)
async def delete(recipe: RecipeName, edge: AnEdge) -> None:
    """Runs that were launched from it keep their own copy."""

    def work(session: Session) -> None:
        may_change(edge.who, recipes.find(session, recipe).owner_id)
        recipes.delete(session, recipe, by=edge.who.id)

    await edge.write(work)
