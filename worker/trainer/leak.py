"""Whether documents that share a packed row stay apart in this very model, with its method applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from backend.core.errors import Invalid
from worker.trainer.undisturbed import undisturbed

THRESHOLD = 1e-4
LENGTHS = (11, 17)


@dataclass(frozen=True)
class Leak:
    """How far the logits of a document moved, at most, because another one stands before it in the row."""

    logits: float

    @property
    def is_refused(self) -> bool:
        return not self.logits <= THRESHOLD


def probe(model: Any, vocabulary: int) -> Leak:
    """Pack two random documents with restarting positions and no mask, as training does, and compare.

    The second document's logits must not move when the first is exchanged, in any precision. In fp32 they must also equal
    those of the document alone.
    """
    generator = torch.Generator().manual_seed(0)
    first, other, second = (
        torch.randint(vocabulary, (1, length), generator=generator).to(model.device)
        for length in (LENGTHS[0], LENGTHS[0], LENGTHS[1])
    )
    with undisturbed(model):
        packed = _behind(model, first, second)
        moved = _distance(packed, _behind(model, other, second))
        if packed.dtype == torch.float32 and not torch.is_autocast_enabled(model.device.type):
            moved = max(moved, _distance(packed, _alone(model, second)))
    return Leak(moved)


def refuse_leaks(model: Any, vocabulary: int) -> Leak:
    """Raise `Invalid` where packing would let documents read each other."""
    leak = probe(model, vocabulary)
    if leak.is_refused:
        raise Invalid(
            "Packing cannot be used with this model and method: a document reads the one before it "
            f"(its logits move by {leak.logits:.2g}).",
            where="data.packing",
            hint="Switch packing off.",
            code="packing.leak",
        )
    return leak


def _behind(model: Any, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Logits of `second` where `first` stands before it in the row."""
    positions = torch.cat([torch.arange(first.shape[1]), torch.arange(second.shape[1])])[None].to(second.device)
    row = torch.cat([first, second], dim=1)
    logits: torch.Tensor = model(input_ids=row, position_ids=positions, use_cache=False).logits
    return logits[:, -second.shape[1] :]


def _alone(model: Any, document: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=document, use_cache=False).logits
    return logits[:, -document.shape[1] :]


def _distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left.float() - right.float()).abs().max())
