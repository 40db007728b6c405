"""What every data-set shape says of itself, and the small readers they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from backend.core.datasets.problems import BadRow
from backend.core.datasets.schema import Message, Row

Record = Mapping[str, Any]
Kind = Literal["messages", "text"]


@dataclass(frozen=True)
class Part:
    """One thing that a shape needs from a record. `aliases` are other names that its column goes by."""

    name: str
    required: bool = True
    aliases: tuple[str, ...] = ()

    def column(self, columns: Sequence[str]) -> str | None:
        """The column that plays this part, however it is capitalised."""
        by_lower = {column.lower(): column for column in reversed(columns)}
        return next((by_lower[name] for name in (self.name, *self.aliases) if name in by_lower), None)


class Format(ABC):
    """One shape. A subclass names its parts and turns a record, whose keys are those parts, into a row."""

    name: ClassVar[str]
    title: ClassVar[str]
    kind: ClassVar[Kind]
    parts: ClassVar[tuple[Part, ...]]
    refusal: ClassVar[str] = ""
    """Why rows of this shape are not taken; empty where they are."""
    way_out: ClassVar[str] = ""

    def mapping(self, columns: Sequence[str]) -> dict[str, str] | None:
        """Part → column, or None where a required part has no column."""
        found = {part.name: part.column(columns) for part in self.parts}
        if any(part.required and found[part.name] is None for part in self.parts):
            return None
        return {part: column for part, column in found.items() if column is not None}

    def fits(self, record: Record) -> bool:  # noqa: ARG002 -- shapes that share their columns look at the values
        """Whether a record with these columns looks like this shape."""
        return True

    @abstractmethod
    def read(self, record: Record, number: int) -> Row:
        """The row. Raises `BadRow`."""

    def needs(self) -> str:
        """`instruction, output`, for messages."""
        return ", ".join(part.name for part in self.parts if part.required)


KINDS_IN_WORDS = {
    str: "text",
    bytes: "binary data",
    bool: "true/false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def in_words(value: object) -> str:
    """What kind of value this is, for messages."""
    return "nothing" if value is None else KINDS_IN_WORDS.get(type(value), f"a {type(value).__name__}")


def text_of(record: Record, part: str) -> str:
    """The text of a part; empty where it is absent. Raises `BadRow` where it is no text."""
    value = record.get(part)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow("rows.type", f"{part} is {in_words(value)} here, not text: the field's type differs.")
    return value


def checked(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns of one row, from which something can be learned. Raises `BadRow`."""
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise BadRow("rows.no_answer", "has no assistant turn: nothing to train on.")
    learned = [message for message in answers if message.train]
    if not learned:
        raise BadRow("rows.no_answer", "has no assistant turn that is to be learned: nothing to train on.")
    if any(not message.content.strip() and not message.tool_calls for message in learned):
        raise BadRow("rows.empty_answer", "has an empty target: the answer is empty.")
    return tuple(messages)
