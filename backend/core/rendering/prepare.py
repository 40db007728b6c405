"""From data files to the rows that a trainer takes, with every refusal told before any accelerator time."""

from __future__ import annotations

from collections.abc import Sequence

from backend.core.assignment import DataFile
from backend.core.recipe import Recipe
from backend.core.rendering.types import Dataset, Prepared


def prepare(files: Sequence[DataFile], prepared: Prepared, recipe: Recipe, *, seed: int) -> Dataset:
    """Raises `Invalid` with every problem at once, each by its row."""
    raise NotImplementedError


def has_conversations(files: Sequence[DataFile]) -> bool:
    """Whether any row is a conversation rather than a plain text; for `load_tokenizer`."""
    raise NotImplementedError
