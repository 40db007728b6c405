"""Plain text: every token of a document is learned."""

from __future__ import annotations

from typing import ClassVar

from backend.core.datasets.problems import BadRow
from backend.core.datasets.schema import Row
from backend.core.formats.base import Format, Kind, Part, Record, text_of


class Text(Format):
    name: ClassVar[str] = "text"
    title: ClassVar[str] = "Plain text"
    kind: ClassVar[Kind] = "text"
    parts: ClassVar[tuple[Part, ...]] = (Part("text", aliases=("content", "document", "body")),)

    def read(self, record: Record, number: int) -> Row:
        text = text_of(record, "text")
        if not text.strip():
            raise BadRow("rows.empty_answer", "has an empty target: the text is empty.")
        return Row(number, text=text)
