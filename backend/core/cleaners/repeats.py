"""Rows that say exactly what an earlier row says."""

from __future__ import annotations

from backend.core.cleaners.base import Cleaner, Hit
from backend.core.datasets.schema import Row
from backend.core.datasets.writer import fingerprint


class Repeats(Cleaner):
    """A text that stands several times is learned by heart rather than understood."""

    name = "repeats"
    fix = "keep_one"

    def __init__(self) -> None:
        self.first: dict[bytes, int] = {}

    def see(self, place: int, row: Row) -> Hit | None:
        twin = self.first.setdefault(fingerprint(row)[0], place)
        if twin == place:
            return None
        said = next((message.content for message in row.messages if message.role == "user"), row.text or "")
        words = said.strip()[:100]
        return Hit(words, behind="…" if len(said.strip()) > len(words) else "", twin=twin)
