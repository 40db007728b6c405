"""A prompt and its completion, or a question and its answer: one user turn and one assistant turn."""

from __future__ import annotations

from typing import ClassVar

from backend.core.datasets.problems import BadRow
from backend.core.datasets.schema import Message, Row
from backend.core.formats.base import Format, Kind, Part, Record, checked, text_of
from backend.core.formats.messages import read_turns


class PromptCompletion(Format):
    name: ClassVar[str] = "prompt_completion"
    title: ClassVar[str] = "Prompt and completion"
    kind: ClassVar[Kind] = "messages"
    parts: ClassVar[tuple[Part, ...]] = (
        Part("prompt", aliases=("question", "query", "input", "problem")),
        Part("completion", aliases=("response", "answer", "output", "solution")),
        Part("system", required=False, aliases=("system_prompt",)),
    )

    def read(self, record: Record, number: int) -> Row:
        if isinstance(record.get("prompt"), list):  # TRL's conversational form: both sides are lists of messages
            turns = [*read_turns(record["prompt"], "prompt"), *read_turns(record.get("completion"), "completion")]
            return Row(number, messages=checked(turns))
        prompt = text_of(record, "prompt")
        if not prompt.strip():
            raise BadRow("rows.no_prompt", "has an empty prompt.")
        system = text_of(record, "system")
        start = [Message("system", system)] if system.strip() else []
        return Row(
            number,
            messages=checked([*start, Message("user", prompt), Message("assistant", text_of(record, "completion"))]),
        )
