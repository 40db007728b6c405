"""What a model loaded in four bits really multiplies with: its weights quantised and back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from backend.core.methods.merging import TensorStep


def dequantising_steps(
    skeleton: PreTrainedModel, config: BitsAndBytesConfig, compute_dtype: torch.dtype | None, device: str
) -> dict[str, TensorStep]:
    """A step for the weight of each module that `from_pretrained(quantization_config=config)` holds in 4 bits, by tensor name.

    `compute_dtype` is the `dtype` of that load: weights are cast to it before they are quantised. `device` is where they are
    quantised, since kernels differ in the last bit.
    """
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    in_fp32 = skeleton._keep_in_fp32_modules
    kept = Bnb4BitHfQuantizer.get_modules_to_not_convert(
        skeleton, config.llm_int8_skip_modules, list(in_fp32) if in_fp32 else None
    )
    return {
        f"{name}.weight": partial(
            quantised_and_back, config=config, dtype=compute_dtype, device=device, across=isinstance(module, Conv1D)
        )
        for name, module in skeleton.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, kept)
    }


def quantised_and_back(
    weight: torch.Tensor, *, config: BitsAndBytesConfig, dtype: torch.dtype | None, device: str, across: bool
) -> torch.Tensor:
    """`across`: GPT-2's Conv1D lies [in, out], and is turned before it is quantised."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Params4bit

    taken = weight.to(dtype or weight.dtype)
    holder: Any = Params4bit  # its `to` is typed for a subclass that does not exist
    packed = holder(
        taken.t().contiguous() if across else taken,
        requires_grad=False,
        quant_type=config.bnb_4bit_quant_type,
        compress_statistics=config.bnb_4bit_use_double_quant,
        quant_storage=config.bnb_4bit_quant_storage,
    ).to(device)
    back = dequantize_4bit(packed.data, packed.quant_state).cpu().to(weight.dtype)
    return back.t().contiguous() if across else back
