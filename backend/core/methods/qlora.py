"""QLoRA: LoRA beside weights that are stored in four bits. Dettmers et al. 2023, https://arxiv.org/abs/2305.14314."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from backend.core.methods.lora import LoraSettings

if TYPE_CHECKING:
    import torch

    from backend.core.memory import Shape

QUANTISED_BYTES = 0.5
SCALE_BYTES = 4 / 64
"""An fp32 scale for each block of 64 weights."""
DOUBLE_SCALE_BYTES = 1 / 64 + 4 / (64 * 256)
"""That scale in 8 bits, and an fp32 one for each 256 of them."""


class QLora(LoraSettings):
    title: ClassVar[str] = "QLoRA"
    help: ClassVar[str] = "LoRA on a base held in 4 bits: fits a 7B model on an 8 GiB card, at a small cost in quality."

    kind: Literal["qlora"] = "qlora"
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field(
        "nf4",
        description="How 4 bits are spread: NF4 follows how weights are distributed.",
        json_schema_extra={"why": "made for weights that are spread like a bell curve.", "rare": True},
    )
    bnb_4bit_use_double_quant: bool = Field(
        True,
        description="Quantise the scales as well: saves about 0.4 bits a weight.",
        json_schema_extra={"why": "saves memory for almost nothing.", "rare": True},
    )
    bnb_4bit_compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Type in which the 4-bit weights are multiplied: auto takes the run's precision.",
        json_schema_extra={"why": "the same precision everywhere.", "rare": True},
    )

    def load_options(self, device: str, dtype: torch.dtype) -> dict[str, Any]:
        """As for LoRA, with a `BitsAndBytesConfig`."""
        import torch
        from transformers import BitsAndBytesConfig

        compute = dtype if self.bnb_4bit_compute_dtype == "auto" else getattr(torch, self.bnb_4bit_compute_dtype)
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=self.bnb_4bit_use_double_quant,
            bnb_4bit_compute_dtype=compute,
        )
        return {"dtype": dtype, "quantization_config": config, "device_map": {"": device}}

    def held_bytes(self, shape: Shape, width: int) -> int:
        """Linear layers in 4 bits with their scales; embeddings, head and norms stay as wide as the run's precision."""
        scale = DOUBLE_SCALE_BYTES if self.bnb_4bit_use_double_quant else SCALE_BYTES
        packed = int(shape.linear_parameters * (QUANTISED_BYTES + scale))
        return packed + width * (shape.parameters - shape.linear_parameters)

    def scratch_bytes(self, shape: Shape, width: int) -> int:
        """A layer is unpacked while it multiplies."""
        return width * shape.largest_linear
