"""Load a tokenizer from a model folder and make it ready for training: template, special tokens, padding, ends."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from backend.core.rendering.types import Prepared


def load_tokenizer(
    folder: Path,
    chat_template: Literal["auto", "chatml", "llama3", "zephyr", "plain"] = "auto",
    *,
    conversations: bool = True,
) -> Prepared:
    """Without `conversations` (data of plain texts only) no template is chosen and no token is added."""
    raise NotImplementedError
