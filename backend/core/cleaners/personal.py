"""E-mail addresses and telephone numbers of people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from backend.core.cleaners.base import Cleaner, Hit, quoted, texts_of
from backend.core.datasets.schema import Row

EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9](?:[\w.+-]{0,62}[\w+-])?@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}(?![\w-])",
    re.ASCII,  # a Chinese character may stand right beside it
)
PHONE = re.compile(
    r"(?<![\w.,+$€£¥/=-])(?:"
    r"\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){1,3}"  # with the code of a country
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[-.]\d{3}[-.]\d{4}"  # North America
    r"|1[3-9]\d[ -]?\d{4}[ -]?\d{4}|0\d{2,3}-\d{7,8}"  # China, mobile and fixed
    r")(?![\w=]|[.,/-]\d)",
    re.ASCII,
)
DIGITS = range(9, 16)
"""What a telephone number has. Sums and dates that look alike have fewer or more."""
MASKS = ((EMAIL, "[email]"), (PHONE, "[phone]"))


class Personal(Cleaner):
    """A model may repeat word for word whom it has read of."""

    name = "personal"
    fix = "mask"

    def see(self, place: int, row: Row) -> Hit | None:  # noqa: ARG002
        for text in texts_of(row):
            for start, end, _ in personal_in(text):
                return quoted(text, start, end)
        return None

    def mended(self, row: Row) -> Row:
        turns = tuple(replace(message, content=masked(message.content)) for message in row.messages)
        return replace(row, messages=turns, text=None if row.text is None else masked(row.text))


def personal_in(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end, and what is to stand there instead."""
    for pattern, mask in MASKS:
        for found in pattern.finditer(text):
            if pattern is EMAIL or sum(map(str.isdigit, found[0])) in DIGITS:
                yield *found.span(), mask


def masked(text: str) -> str:
    """Each of them gone. A number that begins an address goes with the address."""
    pieces, at = [], 0
    for start, end, mask in sorted(personal_in(text), key=lambda found: (found[0], -found[1])):
        if start >= at:
            pieces += [text[at:start], mask]
            at = end
    return "".join((*pieces, text[at:]))
