"""Changing a run in mid-run from its page: the settings that may change, as one form shows and sends them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from pydantic import JsonValue

from backend.core.assignment import Amendment
from backend.core.errors import Problem
from backend.core.models import Run
from backend.core.recipe import read_recipe
from backend.web.forms import Control, Pairs, recipe_controls, recipe_from_form, text_of
from backend.web.shapes.common import Json
from backend.web.shapes.runs import AmendmentOut

FIELDS: tuple[str, ...] = get_args(Amendment.model_fields["field"].annotation)


def amended_recipe(run: Run, amendments: Iterable[AmendmentOut]) -> Json:
    """The run's recipe as it stands after its changes. A length that goes by epochs is shown in steps once it is known."""
    goes_by_epochs = run.recipe["training"]["max_steps"] < 0
    length: Json = {"training.max_steps": run.total_steps} if goes_by_epochs and run.total_steps else {}
    return with_changes(run.recipe, length | {amendment.field: amendment.value for amendment in amendments})


def controls(recipe: Json, problems: Sequence[Problem] = ()) -> list[Control]:
    """Those controls of the recipe's form that may change in mid-run; none is inked, since the values are the run's own."""
    every = [inner for group in recipe_controls(recipe, problems) for inner in group.inside]
    return [replace(control, recommended=text_of(control.value)) for control in every if control.name in FIELDS]


def wanted(recipe: Json, pairs: Pairs) -> dict[str, JsonValue]:
    """What a form says otherwise than `recipe`, by setting. Raises `Invalid` with every problem at once."""
    found = {field: value for field, value in said(pairs).items() if value != _get(recipe, field)}
    read_recipe(with_changes(recipe, found))
    return found


def said(pairs: Pairs) -> dict[str, JsonValue]:
    """What was filled in, by setting; one that was left blank stays as it is."""
    form = recipe_from_form(pairs)
    return {field: value for field in FIELDS if (value := _get(form, field)) is not None}


def with_changes(recipe: Json, changes: Mapping[str, JsonValue]) -> Json:
    changed = {group: dict(value) if isinstance(value, dict) else value for group, value in recipe.items()}
    for field, value in changes.items():
        group, name = field.split(".")
        changed[group][name] = value
    return changed


def _get(recipe: Mapping[str, Any], field: str) -> JsonValue:
    group, name = field.split(".")
    value: JsonValue = recipe.get(group, {}).get(name)
    return value
