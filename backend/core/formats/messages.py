"""OpenAI's `messages`: role and content, tool calls, tools, and `weight: 0` for answers that are read but not learned."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from backend.core.datasets import strict_json
from backend.core.datasets.problems import BadRow
from backend.core.datasets.schema import ROLES, Message, Role, Row
from backend.core.formats.base import Format, Kind, Part, Record, checked, in_words

OTHER_ROLES: dict[str, Role] = {"developer": "system", "function": "tool", "ipython": "tool"}


class Messages(Format):
    name: ClassVar[str] = "messages"
    title: ClassVar[str] = "OpenAI messages"
    kind: ClassVar[Kind] = "messages"
    parts: ClassVar[tuple[Part, ...]] = (
        Part("messages", aliases=("conversations", "conversation", "dialog", "dialogue", "turns")),
        Part("tools", required=False, aliases=("functions",)),
    )

    def fits(self, record: Record) -> bool:
        first = first_turn(record.get("messages"))
        return first is not None and "role" in first

    def read(self, record: Record, number: int) -> Row:
        messages = read_turns(record.get("messages"), "messages")
        return Row(number, messages=checked(messages), tools=read_tools(record.get("tools")))


def turns_of(value: Any, part: str) -> list[dict[str, Any]]:
    """The list of turns, which a CSV cell holds as JSON text. Raises `BadRow`."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = strict_json.loads(value)
    if not isinstance(value, list):
        raise BadRow("rows.type", f"{part} is {in_words(value)} here, not a list of turns.")
    for index, turn in enumerate(value, start=1):
        if not isinstance(turn, dict):
            raise BadRow("rows.type", f"turn {index} is {in_words(turn)}, not an object.")
    return value


def first_turn(value: Any) -> dict[str, Any] | None:
    """The first turn, where there is one: what shapes with the same columns are told apart by."""
    try:
        return next(iter(turns_of(value, "")), None)
    except BadRow:
        return None


def read_turns(value: Any, part: str) -> list[Message]:
    """Messages of OpenAI's form. Raises `BadRow`."""
    return [_message(turn, index) for index, turn in enumerate(turns_of(value, part), start=1)]


def _message(turn: dict[str, Any], index: int) -> Message:
    role = turn.get("role")
    role = OTHER_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        allowed = ", ".join((*ROLES, *OTHER_ROLES))
        raise BadRow("rows.role", f"turn {index} has an unknown role: {role!r}.", f"Allowed roles: {allowed}.")
    name = turn.get("name")
    if name is not None and not isinstance(name, str):
        raise BadRow("rows.type", f"the name in turn {index} is {in_words(name)}, not text.")
    calls = read_tool_calls(turn.get("tool_calls"), index)
    return Message(role, _content(turn, index), name=name, tool_calls=calls, train=_is_learned(turn, index))


def _content(turn: dict[str, Any], index: int) -> str:
    """The text of a turn. A list of parts is joined, as long as all are text."""
    content = turn.get("content")
    if content is None and "content" not in turn and not turn.get("tool_calls"):
        raise BadRow("rows.type", f"turn {index} has no content.")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRow("rows.type", f"the content of turn {index} is {in_words(content)}, not text.")
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type", "text") == "text"]
    if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
        raise BadRow("rows.images", f"turn {index} holds something other than text, which cannot be learned here.")
    return "".join(map(str, texts))


def _is_learned(turn: dict[str, Any], index: int) -> bool:
    """OpenAI's `weight`: 1 or absent is learned, 0 is only read."""
    weight = turn.get("weight")
    if weight in (None, 0, 1):
        return weight != 0
    raise BadRow("rows.weight", f"the weight of turn {index} is {weight!r}.", "Allowed: 0 and 1.")


def read_tool_calls(calls: Any, index: int) -> str | None:
    """Tool calls as JSON text in OpenAI's form, `arguments` as an object, which is what chat templates expect."""
    if isinstance(calls, str) and calls.strip():
        calls = strict_json.loads(calls)
    if not calls:
        return None
    if not isinstance(calls, list):
        calls = [calls]
    return as_json_text([_call(call, index) for call in calls])


def _call(call: Any, index: int) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("rows.tool_call", f"a tool call in turn {index} names no function.")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = strict_json.loads(arguments) if arguments.strip() else {}
    made: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **made} if isinstance(call.get("id"), str) else made


def read_tools(tools: Any) -> str | None:
    """The tools on offer as JSON text: a list of objects, given as such or as text. Raises `BadRow`."""
    if isinstance(tools, str) and tools.strip():
        tools = strict_json.loads(tools)
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow("rows.tools", "tools is not a list of function descriptions.")
    return as_json_text(tools)


def as_json_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise BadRow("json.nesting", "is nested too deeply.") from None
    except TypeError as error:
        raise BadRow("rows.type", f"holds a value that JSON does not know: {error}.") from None
