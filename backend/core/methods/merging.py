"""How a method's adapter goes into the base's weights: what a method plans, and the worker's exports carry out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    TensorStep = Callable[[torch.Tensor], torch.Tensor]
    """The base's weight in, the adapted weight out. It may change its input in place, and may add rows."""


class LazyTensor(Protocol):
    """A tensor in a file, read when asked for, so that a merge holds one at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def load(self) -> torch.Tensor: ...


@dataclass(frozen=True)
class MergePlan:
    """What a merge does to the tensors of the base, by their full names in the model."""

    steps: Mapping[str, TensorStep]
    """What happens to a tensor of the base."""
    replaced: Mapping[str, LazyTensor] = field(default_factory=dict)
    """Tensors that the adapter brings whole."""
    apart: frozenset[str] = frozenset()
    """Adapted tensors that cannot stay tied to another: what was trained on one never acted on the other."""


class MergePlanner(Protocol):
    """A method's part of a merge. Raises `Invalid` where the adapter cannot be put into the base faithfully."""

    def __call__(
        self, skeleton: PreTrainedModel, adapter: Mapping[str, LazyTensor], config: Mapping[str, Any]
    ) -> MergePlan:
        """`skeleton` is the base without weights, `adapter` PEFT's tensors by key, `config` its adapter_config.json."""
        ...
