"""Quantised layers stay on one kernel, so that what is watched is what is trained."""

from __future__ import annotations

import torch
from transformers.pytorch_utils import Conv1D


def stay_on_one_kernel() -> None:
    """Switch bitsandbytes' AVX512-BF16 path off for every layer made from now on; call it before a model is loaded.

    On such CPUs the first evaluation forward repacks NF4 weights for an inference kernel and never unpacks them: later
    training steps have wrong gradients, samples come from another kernel, and some layer widths crash.
    """
    import bitsandbytes.nn.modules as layers

    layers.has_avx512bf16 = lambda: False  # type: ignore[attr-defined]


def quantised_layers(model: torch.nn.Module) -> list[str]:
    """The names of the layers held in 4 bits. Raises where one could still change its kernel."""
    from bitsandbytes.nn.modules import Linear4bit

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    for name, module in found:
        if getattr(module, "support_avx512bf16_for_cpu", False):
            raise RuntimeError(f"{name} would change its kernel at the first evaluation")
    return [name for name, _ in found]


def skipped_layers(model: torch.nn.Module) -> list[str]:
    """The linear layers that quantisation left in their own type, the head among them."""
    from bitsandbytes.nn.modules import Linear4bit

    linear = (torch.nn.Linear, Conv1D)
    return [n for n, m in model.named_modules() if isinstance(m, linear) and not isinstance(m, Linear4bit)]
