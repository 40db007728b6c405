"""Tiny bases and random adapters of every kind that PEFT writes, and PEFT's own merge of them to compare with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from worker.exports.tensors import weight_files

SHAPE: dict[str, Any] = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
ALL = "all-linear"


def save_base(folder: Path, kind: str, dtype: str = "float32") -> Path:
    """A random base. `gpt2-bare` leaves out its file's usual prefix; `sharded` is a Qwen2 with biases in several files."""
    import transformers

    torch.manual_seed(0)
    ids: dict[str, Any] = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}
    wide = SHAPE | HEADS | ids
    config: Any = {
        "llama": lambda: transformers.LlamaConfig(**wide, tie_word_embeddings=False),
        "qwen3": lambda: transformers.Qwen3Config(**wide, tie_word_embeddings=True),
        "sharded": lambda: transformers.Qwen2Config(**(SHAPE | ids), num_attention_heads=4, num_key_value_heads=2),
        "gemma": lambda: transformers.GemmaConfig(**wide),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, **ids),
    }[kind.removesuffix("-bare")]()
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="60KB" if kind == "sharded" else "1GB")
    if kind.endswith("-bare"):
        without_prefix(folder / "model.safetensors", "transformer.")
    return folder


def without_prefix(file: Path, prefix: str) -> None:
    from safetensors.torch import save_file

    save_file({name.removeprefix(prefix): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})


def save_adapter(
    base: Path,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    resize: int = 0,
    save_embeddings: bool | str = "auto",
    **settings: Any,
) -> Path:
    """An adapter with every trainable weight moved at random, as if it had been trained."""
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base)
    if resize:
        model.resize_token_embeddings(resize, mean_resizing=False)
    wrapped: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **({"r": 4, "lora_alpha": 16} | settings)))
    torch.manual_seed(1)
    for name, weight in wrapped.named_parameters():
        if weight.requires_grad:
            noise = torch.randn_like(weight, dtype=torch.float32) * 0.1
            weight.data = ((1 + noise.abs()) * weight if "magnitude" in name else weight + noise).to(dtype)
    wrapped.save_pretrained(folder, save_embedding_layers=save_embeddings)
    return folder


def merged_by_peft(
    base: Path, adapter: Path, out: Path, *, resize: int = 0, quantisation: BitsAndBytesConfig | None = None
) -> Path:
    """PEFT's `merge_and_unload`, on the dequantised base for quantised runs, saved by transformers."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=quantisation)
    if quantisation:
        model = model.dequantize()
    if resize:
        model.resize_token_embeddings(resize, mean_resizing=False)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
    return out


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}


def differing(ours: Path, theirs: Path) -> list[str]:
    """Names of tensors that are not the same bits, or not in both. GPT-2's prefix does not count."""
    prefix: Callable[[str], str] = lambda name: name.removeprefix("transformer.")  # noqa: E731
    left, right = ({prefix(name): tensor for name, tensor in tensors(each).items()} for each in (ours, theirs))
    same = {name for name in left.keys() & right.keys() if equal_bits(left[name], right[name])}
    return sorted((left.keys() | right.keys()) - same)


def equal_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found
