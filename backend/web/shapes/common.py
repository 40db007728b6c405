"""What all answers share: how they are read, lists in pages, and problems."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, Any]
T = TypeVar("T")
MOST = 2**31 - 1
"""The largest number that the database keeps in a column of plain numbers."""
LARGEST = 2**63 - 1
"""The same of large numbers: steps, bytes."""
Value = float | Literal["NaN", "Infinity", "-Infinity"]
"""A metric's value. JSON has no word for what is not finite, so that comes as text."""


class Out(BaseModel):
    """An answer. It is read from rows of the database and never changed."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Listing(Out, Generic[T]):
    """One page of a list. `next` is the cursor of the page after it: pass it as `before`; null at the end."""

    items: list[T]
    next: str | None = None


class ProblemOut(Out):
    """One thing that is wrong with what was sent."""

    code: str = Field(examples=["rows.no_answer"])
    message: str = Field(examples=["has no answer."])
    where: str | None = Field(None, examples=["row 41"], description="The place, as a person would look for it.")
    hint: str | None = Field(None, examples=["Map a column to the answer."])


class ErrorBody(ProblemOut):
    problems: list[ProblemOut] | None = Field(None, description="Everything that is wrong, at once.")
    incident: str | None = Field(None, description="With status 500: the name under which the log tells more.")


class ErrorOut(Out):
    """Every refusal and failure has this shape: what happened, where, and what to do next."""

    error: ErrorBody
