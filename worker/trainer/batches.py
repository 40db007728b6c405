"""Examples become batches of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from backend.core.rendering import IGNORE_INDEX, Example


class Collator:
    """Pads to the longest row of the batch, on the right.

    Packed rows carry restarting positions and no attention mask, which is how models that can isolate documents are told
    to; there the padding counts as one more document, and its labels teach nothing.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`input_ids`, `labels` and `attention_mask` or `position_ids`, each of shape [rows, longest]."""
        longest = max(len(example.input_ids) for example in examples)
        batch = {
            "input_ids": _padded([example.input_ids for example in examples], longest, self._pad),
            "labels": _padded([example.labels for example in examples], longest, IGNORE_INDEX),
        }
        if examples[0].position_ids is None:
            batch["attention_mask"] = _padded([np.ones_like(example.input_ids) for example in examples], longest, 0)
        else:
            batch["position_ids"] = torch.stack([_positions(example, longest) for example in examples])
        return batch


def _padded(rows: Sequence[NDArray[np.int32]], longest: int, fill: int) -> torch.Tensor:
    batch = np.full((len(rows), longest), fill, dtype=np.int64)
    for place, row in zip(batch, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(batch)


def _positions(example: Example, longest: int) -> torch.Tensor:
    assert example.position_ids is not None, "a batch is packed as a whole, or not at all"
    padding = np.arange(longest - len(example.position_ids))
    return torch.from_numpy(np.concatenate([example.position_ids, padding]).astype(np.int64))


def supervised(labels: torch.Tensor) -> int:
    """How many tokens of a batch are learned. Nothing foretells the first of a row, so it never counts."""
    return int(labels[..., 1:].ne(IGNORE_INDEX).sum())


def in_batches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """Batches of rows of like length, the longest first, so that memory runs out at once or not at all."""
    ordered = sorted(examples, key=lambda example: -len(example.input_ids))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
