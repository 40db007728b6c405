"""What every fine-tuning method says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from backend.core.errors import Invalid
from backend.core.strict import Strict

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from backend.core.memory import Shape
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
    trains_residual: ClassVar[bool] = False
    """Whether the weights that feed the residual stream are fp32, and the stream with them."""

    def load_options(self, device: str, dtype: torch.dtype) -> dict[str, Any]:  # noqa: ARG002 -- others quantise per device
        """Keyword arguments for `AutoModelForCausalLM.from_pretrained`: dtype, quantisation."""
        return {"dtype": dtype}

    def apply(self, model: PreTrainedModel, added_token_ids: list[int]) -> Any:
        """The model made trainable. `added_token_ids` are tokens that the run added: their rows must be trained and saved."""
        raise NotImplementedError(type(self).__name__)

    def merge_planner(self) -> MergePlanner:
        """How this method's adapter goes into the base's weights. A method that cannot be merged says so with `Invalid`."""
        raise Invalid(f"{self.title} cannot be merged into its base.", code="merge.method")

    @classmethod
    def recommended(cls, given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG003 -- others follow what is given
        """Recommendations that are no plain defaults, since they follow what else was given."""
        return {}

    # ---- what it takes, for `memory.py` and `pace.py`: pure, no torch ----

    def trained_parameters(self, shape: Shape) -> int:
        """How many numbers are trained. By default all weights."""
        return shape.parameters

    def held_bytes(self, shape: Shape, width: int) -> int:
        """Bytes of the base's weights as `load_options` loads them, where `width` is that of the run's precision."""
        return width * shape.parameters

    def scratch_bytes(self, shape: Shape, width: int) -> int:  # noqa: ARG002 -- others unpack weights
        """Bytes that a layer needs beside its activations while it computes."""
        return 0
