"""How two recipes differ."""

from __future__ import annotations

from backend.core.difference import setting_differences, settings_of
from backend.core.recipe import read_recipe

RECIPE = read_recipe({"model": "tiny", "data": {"sets": ["letters"]}, "method": "lora"}).recipe.model_dump(mode="json")


def test_a_changed_setting_is_told_under_its_path_with_both_values() -> None:
    other = RECIPE | {"method": RECIPE["method"] | {"r": 64}}
    assert setting_differences(RECIPE, other) == [{"name": "method.r", "before": RECIPE["method"]["r"], "after": 64}]


def test_a_run_differs_from_a_clone_of_another_name_in_nothing() -> None:
    assert setting_differences(RECIPE, RECIPE | {"name": "again"}) == []


def test_a_setting_that_only_one_method_has_stands_beside_nothing() -> None:
    other = RECIPE | {"method": {"kind": "full"}}
    found = {each["name"]: (each["before"], each["after"]) for each in setting_differences(RECIPE, other)}
    assert found["method.kind"] == ("lora", "full")
    assert found["method.r"] == (RECIPE["method"]["r"], None)
    assert {"name": "method.kind", "before": "full", "after": "lora"} in setting_differences(other, RECIPE)


def test_a_list_is_one_setting_and_true_is_not_one() -> None:
    assert [each["name"] for each in setting_differences({"a": {"x": [1, 2]}}, {"a": {"x": [2, 1]}})] == ["a.x"]
    assert setting_differences({"a": True}, {"a": 1}) == [{"name": "a", "before": True, "after": 1}]
    assert setting_differences({"a": 1}, {"a": 1.0}) == []


def test_every_setting_of_a_recipe_has_a_path_of_its_own() -> None:
    names = [name for name, _ in settings_of(RECIPE)]
    assert len(names) == len(set(names))
    assert {"training.learning_rate", "method.r", "data.sets", "evaluation.prompts"} <= set(names)
