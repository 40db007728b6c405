"""Preference data: recognised, so that it is refused by its name and never mistaken for something else."""

from __future__ import annotations

from typing import ClassVar

from backend.core.datasets.schema import Row
from backend.core.errors import Invalid
from backend.core.formats.base import Format, Kind, Part, Record


class Refused(Format):
    """A shape that is known and not taken."""

    kind: ClassVar[Kind] = "messages"

    def read(self, record: Record, number: int) -> Row:  # noqa: ARG002 -- no record is read
        raise Invalid(self.refusal, hint=self.way_out, code="rows.refused_shape")


class Pairs(Refused):
    name: ClassVar[str] = "preference"
    title: ClassVar[str] = "Preference pairs (DPO)"
    parts: ClassVar[tuple[Part, ...]] = (Part("chosen"), Part("rejected"))
    refusal: ClassVar[str] = (
        "These are preference pairs (chosen and rejected answers, as for DPO): supervised training cannot learn from them."
    )
    way_out: ClassVar[str] = "To learn the preferred answers alone, upload rows with a prompt and one answer."


class Labelled(Refused):
    name: ClassVar[str] = "kto"
    title: ClassVar[str] = "Answers with a verdict (KTO)"
    parts: ClassVar[tuple[Part, ...]] = (
        Part("label", aliases=("kto_tag",)),
        Part("answer", aliases=("messages", "conversations", "completion", "output", "response")),
    )
    refusal: ClassVar[str] = (
        "These are answers with a verdict (true or false, as for KTO): supervised training would learn the bad ones too."
    )
    way_out: ClassVar[str] = "Keep the rows whose label is true, or choose the format yourself to learn them all."

    def fits(self, record: Record) -> bool:
        return isinstance(record.get("label"), bool)
