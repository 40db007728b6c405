"""Characters that were read in a wrong encoding on their way here."""

from __future__ import annotations

import re

from backend.core.cleaners.base import Cleaner, Hit, quoted, texts_of
from backend.core.datasets.schema import Row

BROKEN = re.compile(
    "\ufffd"
    "|â€[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
    "|Ã[\u0080-\u00bf]|ï¿½|锟斤拷|烫烫烫"
)
"""The sign of a lost character, and what UTF-8 looks like that was taken for Latin-1 or GBK."""


class Broken(Cleaner):
    """The model would learn to write them."""

    name = "broken"
    fix = "leave_out"

    def see(self, place: int, row: Row) -> Hit | None:  # noqa: ARG002
        for text in texts_of(row):
            if found := BROKEN.search(text):
                return quoted(text, *found.span())
        return None
