"""ShareGPT: `conversations` of from/value, with function calls, observations and a `tools` column as LLaMA-Factory has them."""

from __future__ import annotations

from typing import Any, ClassVar

from backend.core.datasets.problems import BadRow
from backend.core.datasets.schema import Message, Role, Row
from backend.core.formats.base import Format, Kind, Part, Record, checked, in_words, text_of
from backend.core.formats.messages import first_turn, read_tool_calls, read_tools, turns_of

SPEAKERS: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


class ShareGpt(Format):
    name: ClassVar[str] = "sharegpt"
    title: ClassVar[str] = "ShareGPT"
    kind: ClassVar[Kind] = "messages"
    parts: ClassVar[tuple[Part, ...]] = (
        Part("conversations", aliases=("conversation", "messages", "dialog", "dialogue", "turns")),
        Part("system", required=False, aliases=("system_prompt",)),
        Part("tools", required=False),
    )

    def fits(self, record: Record) -> bool:
        first = first_turn(record.get("conversations"))
        return first is not None and "from" in first

    def read(self, record: Record, number: int) -> Row:
        turns = turns_of(record.get("conversations"), "conversations")
        messages = [_message(turn, index) for index, turn in enumerate(turns, start=1)]
        system = text_of(record, "system")
        if system.strip() and not (messages and messages[0].role == "system"):
            messages.insert(0, Message("system", system))
        return Row(number, messages=checked(messages), tools=read_tools(record.get("tools")))


def _message(turn: dict[str, Any], index: int) -> Message:
    speaker, value = turn.get("from"), turn.get("value")
    role = SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        allowed = ", ".join(SPEAKERS)
        raise BadRow("rows.role", f"turn {index} has an unknown role: {speaker!r}.", f"Allowed roles: {allowed}.")
    if not isinstance(value, str):
        raise BadRow("rows.type", f"the value of turn {index} is {in_words(value)}, not text.")
    if speaker == "function_call":
        return Message(role, "", tool_calls=read_tool_calls(value, index))
    return Message(role, value)
