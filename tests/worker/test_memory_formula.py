"""The closed formula for memory against the bytes that PyTorch really holds, on a small Llama on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from transformers import LlamaConfig, LlamaForCausalLM

from backend.core.memory import footprint, shape_of
from backend.core.recipe import Recipe, read_recipe
from tests.support.held import Held
from worker.trainer.head import LossHead

HIDDEN, MIDDLE, LAYERS, HEADS, KEY_HEADS, VOCABULARY = 256, 688, 4, 8, 4, 4000
ROWS, LENGTH = 2, 256


def recipe(method: str, *, recompute: bool, precision: str, accumulation: int) -> Recipe:
    training = {
        "per_device_train_batch_size": ROWS,
        "precision": precision,
        "gradient_checkpointing": recompute,
        "gradient_accumulation_steps": accumulation,
    }
    raw = {"model": "m", "data": {"sets": ["a"], "max_length": LENGTH}, "method": method, "training": training}
    return read_recipe(raw).recipe


def prepared(settings: Recipe) -> tuple[Any, int]:
    """The model as the trainer makes it ready, and its size before a method was applied."""
    config = LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=MIDDLE, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, vocab_size=VOCABULARY, use_cache=False,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    size = sum(each.numel() for each in model.parameters())
    if settings.method.makes_adapter and settings.training.precision == "bf16":
        model = model.to(torch.bfloat16)
    model = settings.method.apply(model, [])
    for each in model.parameters():
        each.data = each.data.float() if each.requires_grad else each.data
    if settings.training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if settings.training.precision == "bf16":  # as the loop's accelerator does
        model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
    return model.train(), size


def most_held(model: Any, settings: Recipe) -> int:
    """Bytes at the worst moment of two steps."""
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad])
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    head = LossHead.of(model, torch.bfloat16 if settings.training.precision == "bf16" else torch.float32)
    held = Held()
    with held:
        for each in model.parameters():
            held.track(each)
        for _ in range(2):
            for _ in range(int(settings.training.gradient_accumulation_steps)):
                head.summed_loss({"input_ids": ids}, ids).backward()
            optimizer.step()
            optimizer.zero_grad()
    return held.most


@pytest.mark.parametrize(
    ("method", "recompute", "precision", "accumulation"),
    [
        ("lora", True, "bf16", 2),
        ("lora", True, "fp32", 2),
        ("lora", False, "bf16", 2),
        ("lora", False, "fp32", 1),
        ("full", True, "bf16", 2),
        ("full", False, "fp32", 2),
        ("full", True, "bf16", 1),
        ("full", False, "bf16", 1),
    ],
)
def test_the_formula_meets_the_bytes_that_are_held_within_six_percent(
    method: str, recompute: bool, precision: str, accumulation: int
) -> None:
    settings = recipe(method, recompute=recompute, precision=precision, accumulation=accumulation)
    model, size = prepared(settings)
    shape = shape_of(
        {
            "parameters": size, "layers": LAYERS, "hidden_size": HIDDEN, "heads": HEADS, "kv_heads": KEY_HEADS,
            "vocabulary": VOCABULARY, "intermediate_size": MIDDLE, "chat_template": True,
        }
    )  # fmt: skip
    assert shape
    needed = footprint(shape, settings, on_cpu=True)
    share = (needed.total - needed.overhead) / most_held(model, settings)
    assert 0.98 <= share <= 1.06
