"""Supervised fine-tuning: the model learns to write the answers of the conversations it is shown."""

from __future__ import annotations

from typing import ClassVar, Literal

from backend.core.strict import Strict


class Sft(Strict):
    title: ClassVar[str] = "Supervised fine-tuning"
    help: ClassVar[str] = "Learns the assistant's turns of conversations, or whole texts."
    row_kinds: ClassVar[frozenset[str]] = frozenset({"messages", "text"})
    """The kinds of normalised rows that this stage can learn from."""

    kind: Literal["sft"] = "sft"
