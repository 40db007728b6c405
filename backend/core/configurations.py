"""What a model's config.json tells of it, whatever its family calls that. It is a stranger's: only types are believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from backend.core.datasets.problems import printable


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """What is said of the part that reads and writes, where a model also sees or hears."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


MOST = 1 << 40
"""No model is told by a larger number: whoever says one is not believed, and nothing is reckoned with it."""

SIZES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "context_length": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    "vocabulary": ("vocab_size",),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
}
"""What is told of a model, and the names that architectures give it."""


def number(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these that is a positive number, and one that a model can have."""
    found = (config.get(name) for name in names)
    return next((value for value in found if type(value) is int and 0 < value < MOST), None)


def sizes(config: Mapping[str, Any]) -> dict[str, int | None]:
    """The sizes that a configuration tells."""
    return {what: number(config, *names) for what, names in SIZES.items()}


def beyond(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Those of the names whose number no model can have."""
    said = ((name, config.get(name)) for name in names)
    return [name for name, value in said if type(value) is int and value >= MOST]


def quantisation(config: dict[str, Any]) -> str | None:
    """How the weights are packed, as the configuration says; None where they are as they were trained."""
    said = config.get("quantization_config")
    return printable(str(said.get("quant_method", "unknown"))) if isinstance(said, dict) else None
