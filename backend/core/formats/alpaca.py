"""Alpaca: instruction, input, output, with an optional system prompt and history. https://github.com/tatsu-lab/stanford_alpaca

Instruction and input are joined by a line break into one user turn, as LLaMA-Factory and Axolotl do for chat models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from backend.core.datasets.problems import BadRow
from backend.core.datasets.schema import Message, Row
from backend.core.formats.base import Format, Kind, Part, Record, checked, text_of


class Alpaca(Format):
    name: ClassVar[str] = "alpaca"
    title: ClassVar[str] = "Alpaca"
    kind: ClassVar[Kind] = "messages"
    parts: ClassVar[tuple[Part, ...]] = (
        Part("instruction"),
        Part("input", required=False, aliases=("context",)),
        Part("output", aliases=("response", "answer", "completion")),
        Part("system", required=False, aliases=("system_prompt",)),
        Part("history", required=False),
    )

    def read(self, record: Record, number: int) -> Row:
        question = "\n".join(
            part for part in (text_of(record, "instruction"), text_of(record, "input")) if part.strip()
        )
        if not question:
            raise BadRow("rows.no_prompt", "has an empty instruction.")
        system = text_of(record, "system")
        messages = [
            *([Message("system", system)] if system.strip() else []),
            *_history(record.get("history")),
            Message("user", question),
            Message("assistant", text_of(record, "output")),
        ]
        return Row(number, messages=checked(messages))


def _history(history: object) -> Iterator[Message]:
    """Earlier rounds: a list of [question, answer]."""
    if history is None or history == "":
        return
    if not isinstance(history, list):
        raise BadRow("rows.type", "history is not a list of [question, answer] pairs.")
    for round_ in history:
        if not (isinstance(round_, list) and len(round_) == 2 and all(isinstance(side, str) for side in round_)):
            raise BadRow("rows.type", "history is not a list of [question, answer] pairs.")
        yield Message("user", round_[0])
        yield Message("assistant", round_[1])
