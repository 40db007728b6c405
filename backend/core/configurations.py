"""What a model's config.json tells of it, whatever its family calls that. It is a stranger's: only types are believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.core.datasets.problems import printable


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """What is said of the part that reads and writes, where a model also sees or hears."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def number(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these that is a positive number."""
    found = (config.get(name) for name in names)
    return next((value for value in found if type(value) is int and value > 0), None)


def sizes(config: dict[str, Any]) -> dict[str, int | None]:
    """The sizes that a configuration tells, under the names that architectures give them."""
    return {
        "layers": number(config, "num_hidden_layers", "n_layer", "num_layers"),
        "hidden_size": number(config, "hidden_size", "n_embd", "d_model"),
        "context_length": number(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        "vocabulary": number(config, "vocab_size"),
        "intermediate_size": number(config, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
        "heads": number(config, "num_attention_heads", "n_head", "num_heads"),
        "kv_heads": number(config, "num_key_value_heads", "num_kv_heads"),
        "head_dim": number(config, "head_dim"),
        "experts": number(config, "num_local_experts", "num_experts", "n_routed_experts"),
    }


def quantisation(config: dict[str, Any]) -> str | None:
    """How the weights are packed, as the configuration says; None where they are as they were trained."""
    said = config.get("quantization_config")
    return printable(str(said.get("quant_method", "unknown"))) if isinstance(said, dict) else None
