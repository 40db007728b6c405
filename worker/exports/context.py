"""What the trainer hands over when a run has finished."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from backend.core.assignment import Amendment
from backend.core.recipe import Recipe
from worker.exports.proof import Watched

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig


@dataclass(frozen=True)
class DataFact:
    """One data set that the model learned from, pinned."""

    name: str
    version: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class ExportContext:
    """A finished run. The watched model itself must be freed by now: a merge and its proof load their own.

    `trained` holds `adapter_model.safetensors` and `adapter_config.json`, or the whole model's safetensors for full
    fine-tuning; a checkpoint's folder serves. `tokenizer` is a folder as `tokenizer.save_pretrained` writes it. `dtype` and
    `quantisation` are those with which the base was loaded for training, `compute_dtype` the one in which the watched model
    computed (autocast). `metrics` maps a name to its first and last value.
    """

    run: str
    run_name: str
    recipe: Recipe
    base: Path
    base_name: str  # a hub id or a folder's name, never an absolute path
    trained: Path
    tokenizer: Path
    watched: Watched
    dtype: torch.dtype
    compute_dtype: torch.dtype
    quantisation: BitsAndBytesConfig | None = None
    device: str = "cpu"
    data: tuple[DataFact, ...] = ()
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    added_token_ids: tuple[int, ...] = ()
    changes: tuple[Amendment, ...] = ()
    """What was changed in mid-run, each with the step that it held from."""

    @property
    def resized_rows(self) -> int:
        """Rows of the embedding where the run made it longer than the base's; 0 where it did not."""
        config = json.loads((self.base / "config.json").read_text())
        rows = int((config.get("text_config") or config)["vocab_size"])
        return self.watched.vocabulary if self.watched.vocabulary > rows else 0
