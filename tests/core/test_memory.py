"""The formula against what others measured and published, and against the trainer's own bytes on a CPU."""

from __future__ import annotations

from typing import Any

import pytest

from backend.core import memory
from backend.core.catalog import METHODS
from backend.core.memory import (
    LOGITS_BYTES,
    Footprint,
    Shape,
    footprint,
    loss_chunk,
    most_rows,
    shape_of,
    verdict,
)
from backend.core.recipe import Recipe, read_recipe

GIB = 1 << 30
LLAMA_8B = {
    "parameters": 8_030_261_248,
    "layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "heads": 32,
    "kv_heads": 8,
    "vocabulary": 128_256,
    "context_length": 131_072,
    "chat_template": True,
}


def recipe(method: Any = "lora", *, data: dict[str, Any] | None = None, **training: Any) -> Recipe:
    raw = {"model": "m", "data": {"sets": ["a"], **(data or {})}, "method": method, "training": training}
    return read_recipe(raw).recipe


def shape(**changes: Any) -> Shape:
    found = shape_of(LLAMA_8B | changes)
    assert found
    return found


def tensors(needed: Footprint) -> float:
    """GiB that PyTorch itself counts: without the driver's part and the allocator's gaps."""
    return (needed.total - needed.overhead) / GIB


def test_a_simulated_step_is_met_within_two_percent() -> None:
    """An 8B LoRA step of 2 × 2,048 tokens, simulated tensor by tensor: 49.9 GiB with all logits at 12 bytes each."""
    needed = footprint(shape(), recipe(per_device_train_batch_size=2, gradient_checkpointing=False))
    tokens, vocabulary = 2 * 2048, shape().vocabulary
    less = (12 * tokens - LOGITS_BYTES[2] * loss_chunk(learns=False, on_cpu=False)) * vocabulary / GIB
    assert tensors(needed) + less == pytest.approx(49.9, rel=0.02)


@pytest.mark.parametrize(
    ("method", "gib"),
    [("lora", 16.2), ("qlora", 7.4)],  # torchtune's table, 8B, 2 × 2,048 packed, compiled
)
def test_published_peaks_are_met_within_an_eighth(method: str, gib: float) -> None:
    """torchtune's loss is computed in chunks, as ours is: the worst moment lies inside a layer."""
    needed = footprint(shape(), recipe({"kind": method, "r": 8}, per_device_train_batch_size=2))
    assert tensors(needed) == pytest.approx(gib, rel=0.12)


def test_a_longer_batch_adds_no_logits() -> None:
    wide, narrow = shape(vocabulary=200_000), shape(vocabulary=100_000)
    grown = [
        tensors(footprint(each, recipe(per_device_train_batch_size=8, gradient_checkpointing=False)))
        - tensors(footprint(each, recipe(per_device_train_batch_size=4, gradient_checkpointing=False)))
        for each in (wide, narrow)
    ]
    assert grown[0] == pytest.approx(grown[1])


def test_full_tuning_takes_sixteen_bytes_a_weight_and_scratch_for_the_step() -> None:
    needed = footprint(shape(), recipe("full", optim="adamw_torch_fused", per_device_train_batch_size=1))
    assert needed.weights + needed.gradients + needed.optimizer == 16 * LLAMA_8B["parameters"]
    plain = footprint(shape(), recipe("full", per_device_train_batch_size=1))
    assert plain.optimizer > needed.optimizer
    assert footprint(shape(), recipe("full", optim="adamw_8bit")).optimizer < needed.optimizer / 3


def test_four_bits_leave_embeddings_and_head_as_they_are() -> None:
    needed = footprint(shape(), recipe({"kind": "qlora", "r": 1}))
    outside = 2 * LLAMA_8B["vocabulary"] * LLAMA_8B["hidden_size"]
    assert needed.weights == pytest.approx(2 * outside + (LLAMA_8B["parameters"] - outside) * 0.516, rel=0.01)


def test_lora_trains_what_its_targets_say() -> None:
    small = recipe({"kind": "lora", "r": 8, "target_modules": ["q_proj", "v_proj"]})
    assert small.method.trained_parameters(shape()) == 3_407_872  # as PEFT counts it
    assert recipe({"kind": "lora", "r": 16}).method.trained_parameters(shape()) == 41_943_040


@pytest.mark.parametrize("method", [each.model_fields["kind"].default for each in METHODS])
def test_more_rows_longer_rows_and_remembering_never_take_less(method: str) -> None:
    few = footprint(shape(), recipe(method, per_device_train_batch_size=1)).total
    assert few < footprint(shape(), recipe(method, per_device_train_batch_size=4)).total
    assert few < footprint(shape(), recipe(method, per_device_train_batch_size=1, gradient_checkpointing=False)).total
    assert few < footprint(shape(), recipe(method, per_device_train_batch_size=1, data={"max_length": 4096})).total
    assert few > footprint(shape(), recipe(method, per_device_train_batch_size=1), longest=100).total


def test_a_row_is_never_longer_than_allowed_and_packed_rows_are_full() -> None:
    assert memory.row_length(shape(), recipe(), 300) == 300
    assert memory.row_length(shape(), recipe(), 9000) == 2048
    assert memory.row_length(shape(), recipe(data={"packing": True}), 300) == 2048
    assert memory.row_length(shape(context_length=512), recipe()) == 512


def test_a_verdict_is_tight_where_less_than_a_tenth_is_left() -> None:
    needed = Footprint(GIB, 0, 0, 0, 0)
    assert [verdict(needed, size) for size in (GIB - 1, GIB, int(1.11 * GIB), 2 * GIB)] == [
        "too_big",
        "tight",
        "tight",
        "fits",
    ]


def test_the_largest_batch_that_fits_is_found() -> None:
    assert most_rows(shape(), recipe("full"), 24 * GIB) == 0
    most = most_rows(shape(), recipe("qlora"), 24 * GIB)
    assert verdict(footprint(shape(), recipe("qlora", per_device_train_batch_size=most)), 24 * GIB) != "too_big"
    assert verdict(footprint(shape(), recipe("qlora", per_device_train_batch_size=2 * most)), 24 * GIB) == "too_big"


@pytest.mark.parametrize("lacking", ["layers", "hidden_size", "heads", "parameters", "vocabulary"])
def test_facts_that_do_not_tell_enough_give_no_shape(lacking: str) -> None:
    assert shape_of(LLAMA_8B | {lacking: None}) is None
    assert shape_of({}) is None


def test_a_mixture_of_experts_is_unknown_rather_than_guessed() -> None:
    assert shape_of(LLAMA_8B | {"experts": 8}) is None


def test_every_part_is_explained() -> None:
    assert list(memory.EXPLAINED) == list(Footprint.__dataclass_fields__)
    assert footprint(shape(), recipe()).parts.keys() == memory.EXPLAINED.keys()


def test_auto_is_resolved_for_the_machine() -> None:
    assert memory.resolve_precision("auto", on_cpu=True) == "fp32"
    assert memory.resolve_precision("auto", on_cpu=False, has_bf16=False) == "fp16"
    assert memory.resolve_precision("fp32", on_cpu=False) == "fp32"
    assert memory.recomputes(recipe().training, on_cpu=False)
    assert not memory.recomputes(recipe().training, on_cpu=True)
