"""What every fine-tuning method says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from backend.core.errors import Invalid
from backend.core.strict import Strict

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from backend.core.methods.merging import MergePlanner


class Method(Strict):
    """Settings of one fine-tuning method, and what a worker does with them.

    A subclass adds `kind: Literal[...]`, its fields, and overrides what differs.
    """

    title: ClassVar[str]
    help: ClassVar[str]
    learning_rate: ClassVar[float]
    """The recommended learning rate, taken where a recipe names none."""
    makes_adapter: ClassVar[bool] = False
    """Whether the result is an adapter beside the base, or a whole model."""

    def load_options(self, device: str, dtype: torch.dtype) -> dict[str, Any]:  # noqa: ARG002 -- others quantise per device
        """Keyword arguments for `AutoModelForCausalLM.from_pretrained`: dtype, quantisation."""
        return {"dtype": dtype}

    def apply(self, model: PreTrainedModel, added_token_ids: list[int]) -> Any:
        """The model made trainable. `added_token_ids` are tokens that the run added: their rows must be trained and saved."""
        raise NotImplementedError(type(self).__name__)

    def merge_planner(self) -> MergePlanner:
        """How this method's adapter goes into the base's weights. A method that cannot be merged says so with `Invalid`."""
        raise Invalid(f"{self.title} cannot be merged into its base.", code="merge.method")
