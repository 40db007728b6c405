"""The one internal form of a row, in memory and in Parquet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One turn. `tool_calls` is JSON text. `train` is false for an answer that is to be read, not learned."""

    role: Role
    content: str
    name: str | None = None
    tool_calls: str | None = None
    train: bool = True


@dataclass(frozen=True)
class Row:
    """One normalised row. Exactly one of `messages` and `text` is set; `number` is its place in the source file, from 1."""

    number: int
    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: str | None = None
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: str | None = None
    images: tuple[str, ...] = field(default=())


def arrow_schema() -> pa.Schema:
    """The Parquet schema of a data-set version."""
    import pyarrow as pa

    message = pa.struct(
        [
            pa.field("role", pa.string(), nullable=False),
            pa.field("content", pa.string(), nullable=False),
            pa.field("name", pa.string()),
            pa.field("tool_calls", pa.string()),
            pa.field("train", pa.bool_(), nullable=False),
        ]
    )
    turns = pa.list_(message)
    return pa.schema(
        [
            pa.field("number", pa.int64(), nullable=False),
            pa.field("messages", turns),
            pa.field("text", pa.string()),
            pa.field("tools", pa.string()),
            pa.field("chosen", turns),
            pa.field("rejected", turns),
            pa.field("label", pa.string()),
            pa.field("images", pa.list_(pa.string())),
            pa.field("raw", pa.string()),
        ]
    )


COLUMNS = ("number", "messages", "text", "tools", "chosen", "rejected", "label", "images")
"""What a `Row` is read from. The record as it stood in the file, `raw`, is for people alone: nothing else reads it."""


def to_record(row: Row) -> dict[str, Any]:
    """The row as `pyarrow.Table.from_pylist` takes it."""

    def turns(messages: tuple[Message, ...]) -> list[dict[str, Any]] | None:
        return [vars(message) for message in messages] or None

    return {
        "number": row.number,
        "messages": turns(row.messages),
        "text": row.text,
        "tools": row.tools,
        "chosen": turns(row.chosen),
        "rejected": turns(row.rejected),
        "label": row.label,
        "images": list(row.images) or None,
    }


def from_record(record: dict[str, Any]) -> Row:
    """A row as it was stored."""

    def turns(messages: list[dict[str, Any]] | None) -> tuple[Message, ...]:
        return tuple(Message(**message) for message in messages or ())

    return Row(
        number=record["number"],
        messages=turns(record["messages"]),
        text=record["text"],
        tools=record["tools"],
        chosen=turns(record["chosen"]),
        rejected=turns(record["rejected"]),
        label=record["label"],
        images=tuple(record["images"] or ()),
    )
