"""LoRA and DoRA put into the base's weights, bit for bit as PEFT 0.21's `merge_and_unload` does it.

PEFT's order and number types are kept: adapters in float32, a linear layer adds the float32 delta and rounds once, an embedding
rounds the delta first. What is not understood, or cannot be recovered from the adapter, is refused in words.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from backend.core.errors import Invalid
from backend.core.methods.merging import LazyTensor, MergePlan

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from backend.core.methods.merging import TensorStep

BLOCK_NUMBERS, BLOCK_ROWS = 1 << 20, 64
"""About how many numbers a block has, and how many rows at least: for a few rows the library multiplies in another way."""
TRAINED_ROWS = "token_adapter.trainable_tokens_delta"
PART = re.compile(
    r"\.(lora_[AB]\.weight|lora_embedding_[AB]|lora_magnitude_vector(?=$|\.weight)|token_adapter\.trainable_tokens_delta)"
    r"(?:\.weight)?$"
)
WRAPPED = re.compile(r"\.(?:token_adapter\.)?base_layer\.(weight|bias)$")
STARTS_THAT_LEAVE_THE_BASE_ALONE = (True, False, "gaussian", "eva")
VARIANTS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)


def plan_lora(skeleton: PreTrainedModel, adapter: Mapping[str, LazyTensor], config: Mapping[str, Any]) -> MergePlan:
    """What a LoRA adapter does to its base. Raises `Invalid` for what cannot be merged faithfully."""
    refuse_variants(config)
    modules, whole = by_module(adapter)
    steps = {
        f"{name}.weight": module_step(name, parts, skeleton.get_submodule(name), config)
        for name, parts in modules.items()
    }
    lora = {f"{name}.weight" for name, parts in modules.items() if TRAINED_ROWS not in parts}
    return MergePlan(steps, whole, frozenset(lora | saved_apart(whole, config)))


def refuse_variants(config: Mapping[str, Any]) -> None:
    found = [name for name in VARIANTS if config.get(name)]
    if config.get("peft_type") != "LORA" or found:
        what = found[0] if found else config.get("peft_type")
        raise Invalid(
            f"An adapter with {what} cannot be merged.", code="merge.variant", hint="Use the adapter as it is."
        )
    start = config.get("init_lora_weights", True)
    if start not in STARTS_THAT_LEAVE_THE_BASE_ALONE:
        raise Invalid(
            f"An adapter that began with {start} cannot be merged: that start changed the base's weights.",
            code="merge.start",
            hint="Convert it to plain LoRA when saving (PEFT's path_initial_model_for_weight_conversion).",
        )


def by_module(
    adapter: Mapping[str, LazyTensor],
) -> tuple[dict[str, dict[str, LazyTensor]], dict[str, LazyTensor]]:
    """PEFT's tensors: those that adapt a module, by module and part, and those that replace a tensor, by its name."""
    modules: dict[str, dict[str, LazyTensor]] = defaultdict(dict)
    whole: dict[str, LazyTensor] = {}
    for key, tensor in adapter.items():
        name = key.removeprefix("base_model.model.")
        if part := PART.search(name):
            modules[name[: part.start()]][part[1]] = tensor
        else:
            whole[WRAPPED.sub(r".\1", name)] = tensor
    return dict(modules), whole


def saved_apart(whole: Mapping[str, LazyTensor], config: Mapping[str, Any]) -> set[str]:
    """Tensors of `modules_to_save`: a copy was trained, so a tie to another tensor is broken unless PEFT was told to keep it."""
    if config.get("ensure_weight_tying"):
        return set()
    saved = [f".{name}." for name in config.get("modules_to_save") or ()]
    return {name for name in whole if any(each in f".{name}" for each in saved)}


def module_step(name: str, parts: Mapping[str, LazyTensor], layer: nn.Module, config: Mapping[str, Any]) -> TensorStep:
    """What the adapter does to the weight of one module."""
    if set(parts) == {TRAINED_ROWS}:
        return partial(put_rows, rows=rows_of(name, config), values=parts[TRAINED_ROWS])
    left, right = (
        ("lora_embedding_B", "lora_embedding_A") if is_embedding(layer) else ("lora_B.weight", "lora_A.weight")
    )
    b, a, magnitude = parts.get(left), parts.get(right), parts.get("lora_magnitude_vector")
    known = {left, right, "lora_magnitude_vector"}
    if a is None or b is None or len(a.shape) != 2 or not set(parts) <= known:
        raise Invalid(
            f"{name} ({type(layer).__name__}) is adapted in a way that cannot be merged: {', '.join(sorted(parts))}.",
            code="merge.layer",
            hint="Use the adapter as it is.",
        )
    rank = a.shape[0]
    scale = alpha_of(name, config) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return partial(add_lora, a=a, b=b, magnitude=magnitude, scale=scale, layer=layer)


def rows_of(name: str, config: Mapping[str, Any]) -> list[int]:
    """The token ids whose rows were trained in this module."""
    rows = config["trainable_token_indices"]
    if isinstance(rows, list):
        return rows
    listed = [ids for module, ids in rows.items() if f".{name}".endswith(f".{module}")]
    # PEFT also writes the rows of a tied head under the head's name, which its settings do not list.
    return listed[0] if listed else next(iter(rows.values()))


def alpha_of(name: str, config: Mapping[str, Any]) -> float:
    """`lora_alpha`, or what `alpha_pattern` says. PEFT's first match wins, but the file sorts the patterns: two are refused."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    found = {alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name)}
    if len(found) > 1:
        raise Invalid(
            f"{name} fits several alpha patterns: it was trained with one scale and would be loaded with another.",
            code="merge.alpha_pattern",
            hint="Write patterns of which only one fits each layer, and train again.",
        )
    return found.pop() if found else config["lora_alpha"]


def is_embedding(layer: nn.Module) -> bool:
    from torch import nn

    return isinstance(layer, nn.Embedding)


def add_lora(
    weight: torch.Tensor,
    *,
    a: LazyTensor,
    b: LazyTensor,
    magnitude: LazyTensor | None,
    scale: float,
    layer: nn.Module,
) -> torch.Tensor:
    """weight + scale · BA, for DoRA scaled to its trained magnitudes. Changes `weight` where it can.

    Embeddings and GPT-2's Conv1D are stored [in, out]. That comes from the layer's class: the adapter's own
    `fan_in_fan_out` tells only of the last layer that PEFT wrapped.
    """
    import torch

    embedding = is_embedding(layer)
    lies_across = embedding or type(layer).__name__ == "Conv1D"
    left, right = b.load().float(), a.load().float()
    if magnitude is None and not lies_across:
        return add_in_blocks(weight, left, right, scale)
    delta = (left @ right).mul_(scale)
    delta = delta.t() if lies_across else delta
    if magnitude is None:
        return weight.add_(delta.to(weight.dtype) if embedding else delta)
    adapted = weight + delta
    norms = torch.linalg.norm(weight.t() + delta.t() if lies_across else adapted, dim=1)
    factor = (magnitude.load().float() / norms).view(-1, 1)
    scaled: torch.Tensor = (factor.t() if lies_across else factor) * adapted
    return scaled.to(weight.dtype)


def add_in_blocks(weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """weight + scale · left·right, some rows at a time: the delta, in float32, is twice as large as a weight in bf16, and a
    block of it stays in the processor's cache. A row's numbers are those of the product taken whole."""
    blocks = max(1, min(weight.numel() // BLOCK_NUMBERS, len(weight) // BLOCK_ROWS))
    for into, factor in zip(weight.tensor_split(blocks), left.tensor_split(blocks), strict=True):
        into.add_((factor @ right).mul_(scale))
    return weight


def put_rows(weight: torch.Tensor, *, rows: list[int], values: LazyTensor) -> torch.Tensor:
    """The embedding with its trained rows, and with those that the run added."""
    import torch

    new = range(len(weight), max(rows) + 1)
    if not set(new) <= set(rows):
        raise Invalid(
            "The embedding grew, and the adapter does not carry every new row.",
            code="merge.rows",
            hint="Their random values are lost. Train again with the added tokens trained.",
        )
    grown = torch.nn.functional.pad(weight, (0, 0, 0, len(new))) if new else weight
    return grown.index_copy_(0, torch.tensor(rows), values.load().to(weight.dtype))
