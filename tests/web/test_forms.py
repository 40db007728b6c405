"""A recipe as a form, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from backend.core.catalog import METHODS
from backend.core.errors import Problem
from backend.core.recipe import Recipe, read_recipe
from backend.web.forms import Control, recipe_controls, recipe_from_form

RAW: dict[str, Any] = {
    "name": "7",
    "model": {"path": "tiny"},
    "data": {"sets": [{"name": "a", "weight": 2.0}, {"name": "b", "weight": 1.0}], "packing": True},
    "method": {"kind": "lora", "r": 8, "target_modules": ["q_proj", "v_proj"]},
    "training": {"max_steps": 5, "neftune_noise_alpha": 5.0},
    "evaluation": {"prompts": ["Hello\nthere", "2"]},
}


def leaves(controls: list[Control] | tuple[Control, ...]) -> Iterator[Control]:
    for control in controls:
        yield from leaves(control.inside) if control.kind == "group" else (control,)


def sent(controls: list[Control]) -> list[tuple[str, str]]:
    """What a browser sends for these controls."""
    pairs: list[tuple[str, str]] = []
    for control in leaves(controls):
        if control.kind == "sets":
            for number, each in enumerate(control.value):
                pairs += [(f"{control.name}.{number}.{key}", str(value)) for key, value in each.items() if value]
        elif control.kind == "texts":
            pairs += [(f"{control.name}.{number}", text) for number, text in enumerate(control.value)]
        elif control.kind == "check":
            pairs += [(control.name, "false"), *([(control.name, "true")] if control.value else [])]
        else:
            pairs.append((control.name, control.value))
    return pairs


@pytest.mark.parametrize("kind", [method.model_fields["kind"].default for method in METHODS])
def test_a_form_that_is_sent_back_unchanged_is_the_same_recipe(kind: str) -> None:
    raw = RAW | {"method": RAW["method"] | {"kind": kind} if kind != "full" else {"kind": "full"}}
    recipe = read_recipe(raw).recipe
    filled = recipe_controls(recipe.model_dump(mode="json"))
    assert read_recipe(recipe_from_form(sent(filled))).recipe == recipe


def test_every_setting_has_a_control_with_help() -> None:
    for method in METHODS:
        found = {c.name: c for c in leaves(recipe_controls({"method": {"kind": method.model_fields["kind"].default}}))}
        for group, info in Recipe.model_fields.items():
            inner = method if group == "method" else info.annotation
            for name in getattr(inner, "model_fields", {}):
                assert found[f"{group}.{name}"].help or name == "kind", (group, name)


def test_what_differs_from_the_recommendation_is_told() -> None:
    controls = {control.name: control for control in leaves(recipe_controls(RAW))}
    assert controls["method.r"].is_changed
    assert not controls["method.use_dora"].is_changed
    assert controls["training.learning_rate"].recommended == "2e-4"
    full = {control.name: control for control in leaves(recipe_controls({"method": {"kind": "full"}}))}
    assert full["training.learning_rate"].recommended == "1e-5"


def test_settings_of_the_method_before_are_left_out() -> None:
    pairs = [("method.kind", "full"), ("method.r", "8"), ("model.path", "tiny"), ("data.sets.0.name", "a")]
    assert recipe_from_form(pairs)["method"] == {"kind": "full"}


def test_a_problem_stands_at_its_field() -> None:
    problems = [Problem("x", "is wrong.", "method.r"), Problem("x", "is missing.", "data.sets.0")]
    controls = {control.name: control for control in leaves(recipe_controls(RAW, problems))}
    assert controls["method.r"].error == "is wrong."
    assert controls["data.sets"].error == "is missing."
    assert not controls["method.lora_alpha"].error


def test_prompts_that_are_all_blank_are_not_set() -> None:
    blank = [("evaluation.prompts.0", " "), ("evaluation.eval_share", "0.1")]
    assert recipe_from_form(blank)["evaluation"] == {"eval_share": 0.1}
