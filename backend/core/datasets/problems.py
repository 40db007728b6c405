"""What is wrong with rows: raised by row, gathered by file."""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.core.errors import Invalid, Problem

SHOWN = 100
"""Problems are all counted, and the first so many kept."""


UNSEEN = {mark: f"\\u{mark:04x}" for mark in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Marks that turn the direction of the words around them: `gpj.exe` is read as another name behind one."""


def printable(text: str, length: int = 80) -> str:
    """A stranger's text as it may stand in a message, an answer and a table: short, without what those cannot hold, and
    read as it is written."""
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text.encode(errors="backslashreplace").decode().translate(UNSEEN | {0: "\\0"})


class BadRow(Exception):
    """One row cannot be used. Whoever reads the file knows its number and turns this into a `Problem`."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint

    def at(self, number: int, unit: str = "row") -> Problem:
        return Problem(self.code, self.message, f"{unit} {number}", self.hint)


@dataclass
class Problems:
    """Everything found wrong so far."""

    first: list[Problem] = field(default_factory=list)
    total: int = 0

    def add(self, problem: Problem) -> None:
        self.total += 1
        if len(self.first) < SHOWN:
            self.first.append(problem)

    def refusal(self, rows: int) -> Invalid:
        """The answer when none of them may be skipped. `rows` counts the good ones."""
        whole = self.total + rows
        return Invalid(
            f"{self.total:,} of {whole:,} {'row' if whole == 1 else 'rows'} cannot be used.",
            hint="Mend them, or leave them out with skip_bad_rows.",
            code="rows",
            problems=tuple(self.first),
        )

    def nothing(self) -> Invalid:
        """The answer where not one row could be read: there is nothing to go on with without the bad ones."""
        if not self.total:
            return Invalid("The file has no rows.", code="file.no_rows")
        hint = "Mend them and send the file again."
        return Invalid(self.refusal(0).message, hint=hint, code="file.bad_rows", problems=tuple(self.first))

    def joined(self, end: Invalid) -> Invalid:
        """What ended the reading, with the rows that were found bad before it."""
        return Invalid(
            end.message, hint=end.hint, where=end.where, code=end.code, problems=(*self.first, *end.problems)
        )
