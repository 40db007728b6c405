"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from backend.core.methods.base import Method

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from backend.core.memory import Shape


class Full(Method):
    title: ClassVar[str] = "Full fine-tuning"
    help: ClassVar[str] = "Trains every weight. Needs about 16 bytes of memory a parameter; best with much data."
    learning_rate: ClassVar[float] = 1e-5
    trains_residual: ClassVar[bool] = True

    kind: Literal["full"] = "full"

    def load_options(self, device: str, dtype: torch.dtype) -> dict[str, Any]:  # noqa: ARG002 -- trained weights are fp32
        """Every weight is trained, so each is loaded as fp32: in half precision small updates are rounded away."""
        import torch

        return {"dtype": torch.float32}

    def apply(self, model: PreTrainedModel, added_token_ids: list[int]) -> PreTrainedModel:  # noqa: ARG002 -- all rows are trained anyway
        model.requires_grad_(True)
        return model

    def held_bytes(self, shape: Shape, width: int) -> int:  # noqa: ARG002 -- fp32 in every precision
        return 4 * shape.parameters
