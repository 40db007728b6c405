"""What every kind of artifact in the catalog keeps to; a new one is tested the moment it is registered."""

from __future__ import annotations

import re

import pytest

from backend.core.catalog import EXPORTS, METHODS
from backend.core.errors import Invalid
from backend.core.exports.base import Export
from backend.core.recipe import Recipe

KINDS = [export.kind for export in EXPORTS]


def recipe_with(method: str) -> Recipe:
    return Recipe.model_validate({"model": "base", "data": {"sets": ["rows"]}, "method": method})


def test_kinds_are_single_and_fit_a_folder_and_an_address() -> None:
    assert len(set(KINDS)) == len(KINDS)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", kind) for kind in KINDS)


@pytest.mark.parametrize("export", EXPORTS, ids=KINDS)
def test_an_export_says_what_it_is_in_sentences(export: Export) -> None:
    assert export.title[0].isupper()
    assert export.help.endswith(".")


@pytest.mark.parametrize("method", [method.model_fields["kind"].default for method in METHODS])
def test_every_method_ends_in_a_download(method: str) -> None:
    assert [export.kind for export in EXPORTS if export.applies(recipe_with(method))]


@pytest.mark.parametrize("method", [method.model_fields["kind"].default for method in METHODS])
def test_a_method_that_makes_adapters_can_merge_them_and_the_others_say_that_they_do_not(method: str) -> None:
    recipe = recipe_with(method)
    if recipe.method.makes_adapter:
        assert callable(recipe.method.merge_planner())
    else:
        with pytest.raises(Invalid, match="cannot be merged"):
            recipe.method.merge_planner()
