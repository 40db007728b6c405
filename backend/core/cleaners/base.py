"""What every kind of finding says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from backend.core.datasets.schema import Row

Fix = Literal["leave_out", "keep_one", "mask"]
AROUND = 60
"""Characters shown before and behind what was found."""


@dataclass(frozen=True)
class Hit:
    """What was found in a row: the words, and what stands around them."""

    words: str
    before: str = ""
    behind: str = ""
    twin: int | None = None
    """The place of the row that this one repeats."""


class Cleaner(ABC):
    """One kind of finding. An instance looks at the rows of one data set in their order, and may remember them."""

    name: ClassVar[str]
    revision: ClassVar[int] = 1
    """Counted up when it finds something else than before: what it found is kept."""
    fix: ClassVar[Fix]
    tone: ClassVar[Literal["warn", "note"]] = "warn"
    """`note` where the rows may well be right."""

    @abstractmethod
    def see(self, place: int, row: Row) -> Hit | None:
        """What is to be said of this row."""

    def mended(self, row: Row) -> Row | None:  # noqa: ARG002 -- most leave the row out
        """A row of which something was to be said as it stands in the new version; None leaves it out."""
        return None


def answers_of(row: Row) -> Iterator[str]:
    """What the model would learn to say."""
    yield from (message.content for message in row.messages if message.role == "assistant" and message.train)


def texts_of(row: Row) -> Iterator[str]:
    """All that is said in a row."""
    yield from (message.content for message in row.messages)
    if row.text is not None:
        yield row.text


def quoted(text: str, start: int, end: int) -> Hit:
    """The words `[start, end)` with a little of what stands around them."""
    first, last = max(0, start - AROUND), min(len(text), end + AROUND)
    before = ("…" if first else "") + text[first:start]
    behind = text[end:last] + ("…" if last < len(text) else "")
    return Hit(text[start:end][:200], before, behind)
