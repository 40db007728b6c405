"""What is warned of before a run starts: each rule with the figures that call for it, and with those that do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backend.core.advice import Advice, Situation, advise, meanings
from backend.core.forecast import Accelerator, Steps, accelerators, needs, steps_of
from backend.core.memory import Shape, shape_of
from backend.core.recipe import Recipe, figure, read_recipe, resolve

GIB = 1 << 30
CARD = Accelerator("RTX 4090", 24 * GIB, ("box",))
SEVEN_BILLION = {
    "parameters": 7_600_000_000,
    "layers": 28,
    "hidden_size": 3584,
    "heads": 28,
    "kv_heads": 4,
    "intermediate_size": 18944,
    "vocabulary": 152_064,
    "context_length": 32_768,
    "chat_template": True,
}


def recipe(**settings: Any) -> Recipe:
    read = read_recipe({"model": "base", "data": {"sets": ["rows"]}, "method": "qlora"} | settings).recipe
    return resolve(read, train_rows=5000, context_length=2048)


def situation(asked: Recipe | None = None, **more: Any) -> Situation:
    asked = asked or recipe()
    return replace(Situation(asked, 5000, 260, Steps(624, 312, 16)), **more)


def shape() -> Shape:
    found = shape_of(SEVEN_BILLION)
    assert found
    return found


def on(card: Accelerator, asked: Recipe) -> Situation:
    return situation(asked, shape=shape(), needs=needs(asked, shape(), [card], longest=2000), longest=2000)


def codes(at: Situation) -> list[str]:
    return [each.problem.code for each in advise(at)]


def only(at: Situation) -> Advice:
    (found,) = advise(at)
    return found


def test_a_run_as_recommended_is_warned_of_nothing() -> None:
    assert advise(situation()) == []


@pytest.mark.parametrize(
    ("settings", "code", "remedy"),
    [
        ({"training": {"learning_rate": 5e-3}}, "advice.rate_high", {"training.learning_rate": "2e-4"}),
        ({"training": {"learning_rate": 1e-6}}, "advice.rate_low", {"training.learning_rate": "2e-4"}),
        ({"method": {"kind": "lora", "r": 64}}, "advice.rank", {"method.r": "16", "method.lora_alpha": "32"}),
        ({"method": {"kind": "lora", "lora_alpha": 512}}, "advice.scale", {"method.lora_alpha": "32"}),
        ({"training": {"warmup_steps": 600}}, "advice.warm_up", {"training.warmup_steps": "0.03"}),
        ({"evaluation": {"eval_share": 0}}, "advice.no_evaluation", {"evaluation.eval_share": "0.05"}),
        (
            {"model": {"path": "base", "attn_implementation": "flash_attention_2"}},
            "advice.attention",
            {"model.attn_implementation": "sdpa"},
        ),
    ],
)
def test_a_setting_far_from_what_works_is_told_with_a_way_back(
    settings: dict[str, Any], code: str, remedy: dict[str, str]
) -> None:
    found = only(situation(recipe(**settings)))
    assert (found.problem.code, found.is_serious) == (code, False)
    assert dict(found.remedies[0].settings) == remedy


def test_each_remedy_settles_what_it_is_offered_for() -> None:
    for settings in ({"training": {"learning_rate": 5e-3}}, {"method": {"kind": "lora", "r": 64}}):
        (advice,) = advise(situation(recipe(**settings)))
        changed: dict[str, Any] = {"method": {"kind": "lora"}, "training": {}}
        for name, value in advice.remedies[0].settings.items():
            group, setting = name.split(".")
            changed[group][setting] = float(value) if "e" in value else int(value)
        assert advise(situation(recipe(**changed))) == []


def test_few_steps_few_rows_and_many_passes_are_told_from_what_was_counted() -> None:
    assert codes(situation(steps=Steps(12, 6, 128))) == ["advice.few_steps"]
    assert codes(situation(train_rows=80, eval_rows=4)) == ["advice.few_held_back"]
    assert codes(situation(steps=Steps(3120, 312, 16))) == ["advice.passes"]
    patient = recipe(evaluation={"early_stopping_patience": 3})
    assert codes(situation(patient, steps=Steps(3120, 312, 16))) == []
    assert codes(situation(recipe(data={"sets": ["rows"], "packing": True}), steps=Steps(84, 42, 16))) == [
        "advice.packing"
    ]


def test_fewer_rows_a_step_are_offered_where_steps_are_few_and_make_them_enough() -> None:
    asked = recipe(training={"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1})
    steps = steps_of(asked, train_rows=114, examples=114, max_length=64)
    assert steps.total == 30
    found = only(situation(asked, train_rows=114, eval_rows=20, steps=steps))
    assert found.problem.code == "advice.few_steps"
    smaller = {name.split(".")[1]: int(value) for name, value in found.remedies[0].settings.items()}
    again = steps_of(recipe(training=smaller), train_rows=114, examples=114, max_length=64)
    assert codes(situation(recipe(training=smaller), train_rows=114, eval_rows=20, steps=again)) == []


def test_what_does_not_fit_is_serious_and_each_way_out_fits() -> None:
    asked = recipe(method="lora", training={"per_device_train_batch_size": 16, "gradient_checkpointing": False})
    at = on(CARD, asked)
    found = advise(at)[0]
    assert (found.problem.code, found.is_serious) == ("advice.memory", True)
    assert found.problem.hint == "The figure comes from a formula and may be off by a tenth."
    assert next(sorted(way.settings) for way in found.remedies) == [
        "training.gradient_accumulation_steps",
        "training.gradient_checkpointing",
        "training.per_device_train_batch_size",
    ]
    for way in found.remedies:
        assert float(way.words.rpartition(": ")[2].removesuffix(" GiB")) <= 24


def test_a_card_that_holds_it_is_no_reason_to_warn_though_another_does_not() -> None:
    small, asked = Accelerator("small", 4 * GIB, ("box",)), recipe(training={"per_device_train_batch_size": 1})
    both = situation(asked, shape=shape(), needs=needs(asked, shape(), [CARD, small]))
    assert "advice.memory" in codes(on(small, asked))
    assert "advice.memory" not in codes(both)
    roomy = Accelerator("CPU", 512 * GIB, ("box",), on_cpu=True)
    beside = situation(asked, shape=shape(), needs=needs(asked, shape(), [small, roomy]))
    assert "advice.memory" in codes(beside), "nobody waits for a CPU"


def test_a_full_disk_is_told_before_it_is_full() -> None:
    assert codes(situation(disk_needed=9 * GIB, disk_free=8 * GIB)) == ["advice.disk"]
    assert codes(situation(disk_needed=7 * GIB, disk_free=8 * GIB)) == []


def test_half_precision_on_a_cpu_and_full_precision_on_a_card_are_told() -> None:
    cpu = Accelerator("CPU", 64 * GIB, ("box",), on_cpu=True)
    assert "advice.precision" in codes(on(cpu, recipe(training={"precision": "bf16"})))
    assert "advice.precision" in codes(on(CARD, recipe(training={"precision": "fp32"})))
    assert "advice.precision" not in codes(on(CARD, recipe(training={"precision": "bf16"})))


def test_what_auto_comes_to_is_told_in_figures() -> None:
    found = meanings(situation(longest=1987))
    assert found["evaluation.eval_steps"].value == "32"
    assert found["training.warmup_steps"].value == "19"
    assert found["data.max_length"].why == "the longest row has 1,987, so nothing is cut."


def test_devices_of_a_kind_stand_together_and_the_largest_first() -> None:
    devices = [
        ("a", "cuda:0", "L4", 24),
        ("a", "cuda:1", "L4", 24),
        ("b", "cuda:0", "H100", 80),
        ("b", "cpu", "CPU", 64),
    ]
    assert accelerators(devices) == (
        Accelerator("H100", 80, ("b",)),
        Accelerator("L4", 24, ("a", "a")),
        Accelerator("CPU", 64, ("b",), on_cpu=True),
    )


def test_steps_stop_where_they_are_told_to() -> None:
    asked = recipe(training={"max_steps": 7, "gradient_accumulation_steps": 2})
    assert steps_of(asked, train_rows=100, examples=100, max_length=64) == Steps(total=7, per_epoch=7, rows=16)


@pytest.mark.parametrize(
    ("value", "words"), [(2e-4, "2e-4"), (1.5e-5, "1.5e-5"), (0.03, "0.03"), (2.0, "2"), (0.0, "0")]
)
def test_figures_are_spelled_as_people_write_them(value: float, words: str) -> None:
    assert figure(value) == words
    assert float(words) == value


def test_one_row_a_step_is_told_as_one() -> None:
    asked = recipe(training={"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1})
    at = situation(asked, train_rows=20, eval_rows=20, steps=steps_of(asked, train_rows=20, examples=20, max_length=64))
    assert advise(at)[0].remedies[0].words == "1 row a step"
