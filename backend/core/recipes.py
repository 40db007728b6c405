"""Recipes saved by name. Saving again makes a new version; a version never changes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.core.errors import Invalid, NotFound
from backend.core.ids import uuid7
from backend.core.models import RecipeVersion, SavedRecipe
from backend.core.people import audit
from backend.core.recipe import NAME, read_recipe


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


def versions(session: Session, name: str) -> list[RecipeVersion]:
    """Every version, the newest first. Raises `NotFound`."""
    own = RecipeVersion.recipe_id == find(session, name).id
    return list(session.scalars(select(RecipeVersion).where(own).order_by(RecipeVersion.number.desc())))


def delete(session: Session, name: str, *, by: UUID | None) -> None:
    row = find(session, name)
    audit(session, by, "recipe.delete", row.name)
    session.delete(row)
