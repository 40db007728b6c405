"""Recipes from files: settings that replace others, and errors at the lines where they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.commands.client import Refused
from backend.commands.dataset import plain_name
from backend.commands.run import at_lines, read_recipe_file, with_setting
from backend.core.errors import BadRequest

RECIPE = "model: tiny\ndata:\n  sets: [owls]\ntraining:\n  max_steps: 10\n"


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("training.max_steps=5", {"model": "tiny", "training": {"max_steps": 5, "seed": 1}}),
        (
            "training.learning_rate=1e-4",
            {"model": "tiny", "training": {"max_steps": 10, "seed": 1, "learning_rate": 1e-4}},
        ),
        (
            "model.attn_implementation=eager",
            {"model": {"path": "tiny", "attn_implementation": "eager"}, "training": {"max_steps": 10, "seed": 1}},
        ),
        ("model=other", {"model": "other", "training": {"max_steps": 10, "seed": 1}}),
        ("data.packing=true", {"model": "tiny", "training": {"max_steps": 10, "seed": 1}, "data": {"packing": True}}),
        ("name=a=b", {"model": "tiny", "training": {"max_steps": 10, "seed": 1}, "name": "a=b"}),
    ],
)
def test_a_setting_replaces_the_recipes_own(setting: str, changed: dict[str, object]) -> None:
    recipe = {"model": "tiny", "training": {"max_steps": 10, "seed": 1}}
    assert with_setting(recipe, setting) == changed
    assert recipe["training"] == {"max_steps": 10, "seed": 1}


@pytest.mark.parametrize("setting", ["training.max_steps", "=5", "training.=5", "name.deep.er=5"])
def test_what_sets_nothing_is_refused(setting: str) -> None:
    with pytest.raises(BadRequest):
        with_setting({"model": "tiny", "name": "a"}, setting)


def test_yaml_that_cannot_be_read_is_told_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("model: tiny\nmodel: twice\n")
    with pytest.raises(BadRequest, match=r"recipe.yaml, line 2: “model” stands here twice"):
        read_recipe_file(file)


def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("- a list\n")
    with pytest.raises(BadRequest, match="mapping"):
        read_recipe_file(file)


def test_problems_stand_at_the_lines_of_their_settings(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    _, lines = read_recipe_file(file)
    wheres = ("training.max_steps", "data.sets.0", "training.learning_rate", "elsewhere")
    problems = [{"code": "x", "message": "is wrong.", "where": where} for where in wheres]
    told = at_lines(Refused(422, {"message": "No.", "problems": problems}), file.name, lines)
    assert [problem.where for problem in told.problems] == [
        "recipe.yaml, line 5: training.max_steps",
        "recipe.yaml, line 3: data.sets.0",
        "recipe.yaml, line 4: training.learning_rate",
        "elsewhere",
    ]


@pytest.mark.parametrize(
    ("file", "name"), [("owls.jsonl.gz", "owls"), ("a.b.csv", "a.b"), ("Rows.PARQUET", "Rows"), ("plain", "plain")]
)
def test_a_data_set_is_called_like_its_file(file: str, name: str) -> None:
    assert plain_name(Path(file)) == name
