"""What keeps rows from being trained on, in words that are the same wherever it is found out: from lengths, or row by row."""

from __future__ import annotations

from dataclasses import dataclass

from backend.core.errors import Problem


@dataclass(frozen=True)
class TooLong:
    """Rows that nobody said what to do with. The shares are of all tokens that would be learned."""

    rows: int
    of: int
    limit: int
    longest: int
    context_length: int | None
    dropped: float
    """Lost where the rows are left out."""
    behind: float
    """Lost where their ends are cut."""
    before: float
    """Lost where their beginnings are cut."""

    def problem(self, where: str = "") -> Problem:
        """How many rows, and what each way out costs."""
        fits = self.context_length is None or self.longest <= self.context_length
        ways = [
            f"max_length {self.longest:,} keeps them whole." if fits else "",
            f"truncation drop leaves them out: {self.dropped:.0%} of the tokens to learn.",
            f"cut_end takes {self.behind:.0%} of the tokens to learn, and with them the ends of answers.",
            f"cut_start takes {self.before:.0%}, and the beginnings of what was asked.",
        ]
        context = "" if fits else f", and the model's context is {self.context_length:,}"
        words = (
            f"{self.rows:,} of {self.of:,} rows are longer than {self.limit:,} tokens"
            f" (the longest is {self.longest:,}{context})."
        )
        return Problem("rows.too_long", words, where, " ".join(filter(None, ways)))
