"""Recipes saved by name. Saving again makes a new version; a version never changes."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, UnaryExpression, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.core.bulk import bytes_before
from backend.core.errors import Conflict, Invalid, NotFound
from backend.core.ids import uuid7
from backend.core.models import RecipeVersion, SavedRecipe
from backend.core.people import audit
from backend.core.recipe import NAME, read_recipe

MOST_VERSIONS = 1000
"""Of one recipe: its page lists all of them."""
PAGE_BYTES = 8 << 20
"""A page of recipes ends at about this size, however few it then holds: each may have long prompts."""


def find(session: Session, name: str) -> SavedRecipe:
    """Raises `NotFound`."""
    row = session.scalar(select(SavedRecipe).where(SavedRecipe.name == name.strip()))
    if row is None:
        raise NotFound(f"There is no recipe “{name}”.", hint="The list of recipes shows what was saved.")
    return row


def save(session: Session, name: str, body: Any, *, by: UUID | None) -> RecipeVersion:
    """The next version of the recipe of that name. Raises `Invalid` with everything that is wrong with it."""
    name = name.strip()
    if not NAME.fullmatch(name):
        raise Invalid("A recipe's name holds letters, digits, spaces and _ . + -, at most 80.", where="name")
    recipe = read_recipe(body).recipe
    row = _locked(session, name, by)
    newest = session.scalar(select(func.max(RecipeVersion.number)).where(RecipeVersion.recipe_id == row.id)) or 0
    if newest >= MOST_VERSIONS:
        words = f"“{name}” has {MOST_VERSIONS:,} versions, and takes no more."
        raise Conflict(words, hint="Save it under another name.", code="versions.many")
    version = RecipeVersion(recipe_id=row.id, number=newest + 1, body=recipe.model_dump(mode="json"), created_by=by)
    session.add(version)
    session.flush()
    audit(session, by, "recipe.save", row.name, version=version.number)
    return version


def _locked(session: Session, name: str, owner_id: UUID | None) -> SavedRecipe:
    """The recipe's row, made where there is none, and locked, so that versions are numbered one after the other."""
    row = insert(SavedRecipe).values(id=uuid7(), name=name, owner_id=owner_id)
    session.execute(row.on_conflict_do_nothing(index_elements=["name"]))
    return session.execute(select(SavedRecipe).where(SavedRecipe.name == name).with_for_update()).scalar_one()


def version(session: Session, name: str, number: int | None = None) -> RecipeVersion:
    """The newest version, or the one of that number. Raises `NotFound`."""
    query = select(RecipeVersion).where(RecipeVersion.recipe_id == find(session, name).id)
    query = query.where(RecipeVersion.number == number) if number is not None else query
    found = session.scalar(query.order_by(RecipeVersion.number.desc()).limit(1))
    if found is None:
        raise NotFound(f"The recipe “{name}” has no version {number}.", hint="Its page lists them.")
    return found


def versions(session: Session, name: str, before: int | None = None, limit: int = 100) -> list[RecipeVersion]:
    """The versions before that one, the newest first: `limit` of them, or fewer where those fill `PAGE_BYTES`. Raises
    `NotFound`."""
    newest = RecipeVersion.number.desc()
    query = select(RecipeVersion.id).where(RecipeVersion.recipe_id == find(session, name).id)
    query = query.where(RecipeVersion.number < before) if before is not None else query
    page = fitting(query.order_by(newest).limit(limit), newest)
    return list(session.scalars(select(RecipeVersion).where(RecipeVersion.id.in_(page)).order_by(newest)))


def fitting(query: Select[UUID], *order: UnaryExpression[Any]) -> Select[UUID]:
    """Of the versions whose ids a query finds in that order, those that begin within `PAGE_BYTES`."""
    before = bytes_before(RecipeVersion.body, *order).label("before")
    page = select(RecipeVersion.id, before).where(RecipeVersion.id.in_(query)).subquery()
    return select(page.c.id).where(page.c.before < PAGE_BYTES)


def history(session: Session, name: str) -> list[tuple[int, datetime]]:
    """The number of every version, the newest first, and when it was saved. Raises `NotFound`."""
    query = select(RecipeVersion.number, RecipeVersion.created_at)
    own = RecipeVersion.recipe_id == find(session, name).id
    return [(number, at) for number, at in session.execute(query.where(own).order_by(RecipeVersion.number.desc()))]


def count(session: Session) -> int:
    """How many recipes there are."""
    return session.scalar(select(func.count()).select_from(SavedRecipe)) or 0


def delete(session: Session, name: str, *, by: UUID | None) -> None:
    row = find(session, name)
    audit(session, by, "recipe.delete", row.name)
    session.delete(row)
