"""Saved recipes."""

from __future__ import annotations

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import recipes
from backend.web import reading
from backend.web.contexts import RecipesPage
from backend.web.deps import AnEdge, may_change
from backend.web.pages.common import draw, go

router = APIRouter()


@router.get("/recipes")
async def recipes_page(request: Request, edge: AnEdge) -> Response:
    return draw(request, RecipesPage(await edge.read(reading.recipe_outs)))


@router.post("/recipes/{recipe}/delete")
async def delete(recipe: str, edge: AnEdge) -> Response:
    def work(session: Session) -> None:
        may_change(edge.who, recipes.find(session, recipe).owner_id)
        recipes.delete(session, recipe, by=edge.who.id)

    await edge.write(work)
    return go("/recipes")
