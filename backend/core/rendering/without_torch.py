"""Tokenizers need no torch, which would take seconds and half the memory that a limited process may have."""

from __future__ import annotations

import sys


def without_torch() -> None:
    """Keep transformers from importing it. For processes that only read text."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
