"""The tokenizer of training, as files: what the merged model and the adapter carry so that they render as in training."""

from __future__ import annotations

import shutil
from pathlib import Path

PATTERNS = (
    "tokenizer*.json",
    "tokenizer*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "spiece.model",
    "sentencepiece*.model",
    "chat_template.jinja",
)
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def copy_tokenizer(source: Path, folder: Path) -> None:
    copy_matching(source, folder, PATTERNS)
    if (source / "additional_chat_templates").is_dir():
        shutil.copytree(source / "additional_chat_templates", folder / "additional_chat_templates")


def copy_licences(base: Path, folder: Path) -> None:
    """Licences ask to travel with what is made from the model."""
    copy_matching(base, folder, LICENCES)


def copy_matching(source: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    for file in sorted({file for pattern in patterns for file in source.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, folder / file.name)
