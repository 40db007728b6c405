"""Which tokens of a row the model learns."""

from __future__ import annotations

from backend.core.datasets.schema import Row
from backend.core.rendering.types import Encoded, Prepared, Truncation


def encode(
    row: Row, prepared: Prepared, *, assistant_only_loss: bool = True, max_length: int, truncation: Truncation
) -> Encoded:
    """One row. Raises `Invalid` where it cannot be rendered or would have to be cut without consent."""
    raise NotImplementedError


def encode_prompt(prompt: str, prepared: Prepared) -> list[int]:
    """A person's prompt up to where the model begins to answer: as a user's turn, or as a plain text to go on from."""
    raise NotImplementedError
