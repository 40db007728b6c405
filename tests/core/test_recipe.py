"""What a person writes is a recipe, or every problem with it at once."""

from __future__ import annotations

from typing import Any

import pytest

from backend.core.errors import BadRequest, Invalid
from backend.core.methods.qlora import QLora
from backend.core.recipe import read_recipe, recommended_global_batch, resolve
from backend.core.yaml12 import read_yaml

SHORT: dict[str, Any] = {"model": "owl", "data": {"sets": ["owls"]}}


def problems(**changes: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        read_recipe(SHORT | changes)
    return {problem.where: f"{problem.message} {problem.hint}".strip() for problem in caught.value.problems}


def test_the_shortest_recipe_has_our_recommendations() -> None:
    recipe = read_recipe(SHORT).recipe
    assert isinstance(recipe.method, QLora)
    assert (recipe.method.r, recipe.method.lora_alpha, recipe.method.target_modules) == (16, 32, "all-linear")
    assert recipe.training.learning_rate == 2e-4
    assert recipe.training.warmup_steps == 0.03
    assert recipe.training.lr_scheduler_type == "cosine"


def test_full_tuning_gets_its_own_learning_rate() -> None:
    assert read_recipe(SHORT | {"method": "full"}).recipe.training.learning_rate == 1e-5


def test_alpha_follows_the_rank_where_it_is_not_given() -> None:
    method = read_recipe(SHORT | {"method": {"kind": "lora", "r": 8}}).recipe.method
    assert method.model_dump()["lora_alpha"] == 16


def test_an_unknown_key_is_answered_with_the_nearest_one() -> None:
    assert problems(method={"kind": "lora", "lora_alhpa": 1}) == {
        "method.lora_alhpa": "is not a setting. Did you mean lora_alpha?"
    }


def test_an_old_name_beside_todays_says_that_both_are_given() -> None:
    found = problems(data={"sets": ["owls"], "max_length": 64}, training={"max_seq_length": 128})
    assert found == {
        "training.max_seq_length": "is not a setting. It is called data.max_length today, which is given as well."
    }


def test_early_stopping_without_rows_to_measure_on_is_refused() -> None:
    found = problems(evaluation={"eval_share": 0, "early_stopping_patience": 3})
    assert "holds none back" in found["evaluation"]


def test_a_name_that_cannot_be_one_is_told_at_the_name() -> None:
    assert "starts with a letter" in problems(name="../etc")["name"]


def test_every_problem_is_told_at_once_and_at_its_place() -> None:
    found = problems(
        training={"learning_rate": 0, "num_train_epochs": -1, "batch": 3}, method={"kind": "lora", "r": 10**6}
    )
    assert set(found) == {"training.learning_rate", "training.num_train_epochs", "training.batch", "method.r"}


def test_of_thousands_of_problems_the_first_are_told_with_their_number() -> None:
    with pytest.raises(Invalid, match="4,000 settings are wrong") as caught:
        read_recipe(SHORT | {f"k{number}": 0 for number in range(4000)})
    assert [each.where for each in caught.value.problems] == [f"k{number}" for number in range(100)]


def test_a_key_without_end_is_told_by_its_beginning() -> None:
    [(where, words)] = problems(**{"k" * 100_000: 1}).items()
    assert (len(where), words.startswith("is not a setting.")) == (80, True)


@pytest.mark.parametrize(
    "crowd",
    [
        {"evaluation": {"prompts": [""] * 340_000}},
        {"data": {"sets": [{"x": 1}] * 40_000}},
        {f"k{number}": 0 for number in range(80_000)},
    ],
    ids=["prompts", "sets", "keys"],
)
def test_more_values_than_any_recipe_has_are_counted_and_not_looked_at(crowd: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="more than 5,000 values") as caught:
        read_recipe(SHORT | crowd)
    assert caught.value.problems == ()


def test_yaml_of_more_values_than_any_recipe_has_is_not_read_to_its_end() -> None:
    with pytest.raises(BadRequest, match="more than 5,000 values"):
        read_yaml("a: [" + "x," * 500_000 + "]")


def test_an_unknown_method_lists_the_known_ones() -> None:
    assert "'qlora'" in problems(method="qloraa")["method"]


def test_auto_and_numbers_are_both_taken_and_nonsense_is_not() -> None:
    recipe = read_recipe(SHORT | {"saving": {"save_steps": 7}, "data": {"sets": ["owls"], "max_length": "auto"}}).recipe
    assert recipe.saving.save_steps == 7
    assert "saving.save_steps" in problems(saving={"save_steps": 0})
    assert "data.max_length" in problems(data={"sets": ["owls"], "max_length": "long"})


@pytest.mark.parametrize(
    "name", ["../etc", "a\\..\\b", "x\0y", "a\r\nb", "n" * 81, ";touch x", "\u202egnp.exe", "..%252f"]
)
def test_a_name_that_is_a_path_or_a_trick_is_refused(name: str) -> None:
    assert problems(name=name)


def test_old_names_are_translated_with_a_note() -> None:
    read = read_recipe(SHORT | {"training": {"warmup_ratio": 0.1}, "method": {"kind": "lora", "lora_rank": 4}})
    assert read.recipe.training.warmup_steps == 0.1
    assert {note.where for note in read.notes} == {"training.warmup_ratio", "method.lora_rank"}


def test_a_recipe_survives_a_round_trip_through_json() -> None:
    recipe = read_recipe(SHORT | {"method": {"kind": "lora", "target_modules": ["q_proj"]}}).recipe
    assert read_recipe(recipe.model_dump(mode="json")).recipe == recipe


def test_data_sets_have_all_a_weight_or_none() -> None:
    assert "weight" in problems(data={"sets": [{"name": "a", "weight": 1}, "b"]})["data"]


@pytest.mark.parametrize(("rows", "batch"), [(10, 8), (2400, 16), (5000, 32), (100_000, 128)])
def test_the_recommended_batch_leaves_about_150_steps(rows: int, batch: int) -> None:
    assert recommended_global_batch(rows, epochs=1) == batch


def test_autos_that_depend_on_data_and_model_are_written_out() -> None:
    resolved = resolve(read_recipe(SHORT).recipe, train_rows=5000, context_length=512)
    assert resolved.data.max_length == 512
    assert resolved.training.gradient_accumulation_steps == 8


def test_yaml_is_read_as_version_1_2() -> None:
    data, lines = read_yaml("rate: 1e-4\nno: no\ntime: 12:30\nquoted: '1'\n")
    assert data == {"rate": 1e-4, "no": "no", "time": "12:30", "quoted": "1"}
    assert lines["time",] == 3


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("a: 1\na: 2", "twice", 2),
        ("a: &x [1]\nb: *x", "Aliases", 1),
        ("a: !!python/object:os.system x", "tags", 1),
        ("a: 1\n!!python/name:os.system b: 1", "tags", 2),
        ("a: 1\n&x b: 1", "anchors", 2),
        ("a: 1\n---\nb: 1", "second document", 2),
        ("a: 1\n...\nb: 1", "expected", 3),
        ("a: [1", "expected", 1),
        ("a: 1e999", "out of range", 1),
        ("[" * 100 + "]" * 100, "too deeply", 1),
    ],
)
def test_yaml_that_is_wrong_or_hostile_is_refused_with_its_line(text: str, problem: str, line: int) -> None:
    with pytest.raises(BadRequest, match=problem) as caught:
        read_yaml(text)
    assert caught.value.where == f"line {line}"
