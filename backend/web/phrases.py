"""What the server says, in the reader's language.

Messages are made in English where something goes wrong, their values written in. Here the phrase that a message was made
from is recognised by its shape, and said again in another language with the same values. So no module below the web
knows of languages, and what is not recognised stays English.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

PLACE = "{}"
SENTENCE_END = re.compile(r"(?<=[.?])\s+")
MESSAGE_LENGTH, VALUE_LENGTH = 2000, 400
"""What is longer was written by a person, and is not taken apart: shapes fit a hostile text in very many ways."""
ROWS = re.compile(r"\b(?:row|line) \d+(?:,\d{3})*|and [\d,]+ more$")


class Phrases:
    """A catalogue from `There is no run “{}”.` to a text with `{0}` where the first value stands."""

    def __init__(self, catalogue: Mapping[str, str]) -> None:
        self._exact = {phrase: said for phrase, said in catalogue.items() if PLACE not in phrase}
        shaped = [phrase for phrase in catalogue if PLACE in phrase]
        shaped.sort(key=lambda phrase: len(phrase.replace(PLACE, "")), reverse=True)  # the most telling shape first
        self._shapes = [(_shape(phrase), catalogue[phrase]) for phrase in shaped]

    def said(self, message: str) -> str:
        """The whole message where it is known, else sentence by sentence."""
        if len(message) > MESSAGE_LENGTH:
            return message
        if (whole := self._known(message)) is not None:
            return whole
        sentences = [self._known(sentence) or f"{sentence} " for sentence in SENTENCE_END.split(message)]
        return "".join(sentences).rstrip()

    def placed(self, where: str) -> str:
        """Where something is: `row 3, row 8 and 40 more`. The name of a setting or of a data set stays as it is."""
        return ROWS.sub(lambda found: self._known(found[0]) or found[0], where)

    def _known(self, message: str) -> str | None:
        if message in self._exact:
            return self._exact[message]
        for shape, said in self._shapes:
            if found := shape.fullmatch(message):
                values = [(len(value) <= VALUE_LENGTH and self._known(value)) or value for value in found.groups()]
                return said.format(*values)
        return None


def _shape(phrase: str) -> re.Pattern[str]:
    return re.compile("(.*?)".join(map(re.escape, phrase.split(PLACE))), re.DOTALL)
