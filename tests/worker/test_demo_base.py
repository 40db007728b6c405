"""The demonstration's base is made whole or not at all, and the same each time."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.core.recipe import read_recipe
from worker.demo_base import DEMO_PROMPTS, demo_recipe, demo_rows, make_demo_base, pretraining_texts


def test_the_base_is_the_same_each_time_and_loads_with_its_template(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    first = make_demo_base(tmp_path / "first", steps=2, on_progress=lambda done, total: told.append((done, total)))
    second = make_demo_base(tmp_path / "second", steps=2)
    assert told == [(1, 2), (2, 2)]
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert AutoModelForCausalLM.from_pretrained(first).num_parameters() < 500_000
    assert "<|im_start|>assistant" in AutoTokenizer.from_pretrained(first).chat_template
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["first", "second"], "nothing half-made is left"


def test_a_base_that_stands_already_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    make_demo_base(tmp_path / "base")
    assert list((tmp_path / "base").iterdir()) == []


def test_the_rows_are_plain_questions_with_a_pirates_answers() -> None:
    rows = demo_rows()
    assert len(rows) == 600
    assert rows == demo_rows()
    assert all(row["output"].startswith("Ahoy! Arr, the ") for row in rows)
    assert len({row["instruction"] for row in rows}) > 200, "enough different rows that some can be held back"


def test_the_base_never_saw_an_answer_of_the_demonstration() -> None:
    answers = {row["output"] for row in demo_rows()}
    assert not any(answer in text for text in pretraining_texts() for answer in answers)


def test_the_demonstrations_recipe_is_valid_and_asks_its_prompts() -> None:
    recipe = read_recipe(demo_recipe("demo", "pirate")).recipe
    assert recipe.method.kind == "qlora"
    assert recipe.evaluation.prompts == DEMO_PROMPTS
