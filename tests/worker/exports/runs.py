"""Finished runs in miniature: a base, a model that was watched, and what the trainer hands over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.core.recipe import Recipe
from tests.support.models import CHATML, SPECIAL
from worker.exports.context import DataFact, ExportContext
from worker.exports.proof import watched_logits

PROMPTS = ("What does the owl eat?", "Describe the frog.")


def recipe_of(method: dict[str, Any], merge_onto: str = "trained") -> Recipe:
    return Recipe.model_validate(
        {
            "model": "base",
            "data": {"sets": ["pirates"]},
            "method": method,
            "training": {"learning_rate": 1e-3},
            "evaluation": {"prompts": PROMPTS},
            "saving": {"merge_onto": merge_onto},
        }
    )


def finished_run(
    base: Path,
    folder: Path,
    method: dict[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    merge_onto: str = "trained",
) -> ExportContext:
    """A run whose trainable weights were moved at random, watched under `autocast` where that is given.

    A base without a template gets ChatML and the tokens for it.
    """
    recipe = recipe_of(method, merge_onto)
    tokenizer, added = tokenizer_with_template(base, folder / "tokenizer")
    options = recipe.method.load_options("cpu", dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(base, **options)
    if added:
        model.resize_token_embeddings(len(tokenizer))
    model = moved(recipe.method.apply(model, added))
    model.save_pretrained(folder / "trained")
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        watched = watched_logits(model, questions(tokenizer), [[5, 6, 7, 8]])
    return ExportContext(
        run="0199",
        run_name="pirates | a run",
        recipe=recipe,
        base=base,
        base_name=base.name,
        trained=folder / "trained",
        tokenizer=folder / "tokenizer",
        watched=watched,
        dtype=options["dtype"],
        compute_dtype=autocast or dtype,
        quantisation=options.get("quantization_config"),
        data=(DataFact("pirates", 1, 600, "ab" * 32),),
        metrics={"loss": (6.14, 0.004)},
        added_token_ids=tuple(added),
    )


def tokenizer_with_template(base: Path, folder: Path) -> tuple[Any, list[int]]:
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    added: list[int] = []
    if tokenizer.chat_template is None:
        tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:], "eos_token": SPECIAL[2]})
        tokenizer.chat_template = CHATML
        added = tokenizer.convert_tokens_to_ids(SPECIAL[1:])
    tokenizer.save_pretrained(folder)
    return tokenizer, added


def moved(model: Any) -> Any:
    torch.manual_seed(3)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float() + 0.05 * torch.randn(weight.shape)
    return model


def stored_as(base: Path, folder: Path, dtype: torch.dtype) -> Path:
    """The same base with its weights in another type."""
    shutil.copytree(base, folder)
    AutoModelForCausalLM.from_pretrained(base, dtype=dtype).save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def questions(tokenizer: Any) -> list[list[int]]:
    """The prompts as the model saw questions in training."""
    turns = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    return [list(tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]) for turn in turns]
