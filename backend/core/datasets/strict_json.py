"""JSON as the standard has it: what Python's reader lets pass, or fails on with a raw error, is refused in words."""

from __future__ import annotations

import json
import math
from typing import Any

from backend.core.datasets.problems import BadRow, printable

NUMBER_DIGITS = 1000


class StrictDecoder:
    """Decodes one value at a time.

    Numbers that are none, and keys that stand twice, do not end the parse: the first such problem is kept in `problem`,
    so that a reader knows where the value ends and goes on with the next.
    """

    def __init__(self) -> None:
        self.problem: BadRow | None = None
        self._decode = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_int=self._integer,
            parse_float=self._float,
            parse_constant=self._constant,
        ).raw_decode

    def value(self, text: str, at: int = 0) -> tuple[Any, int]:
        """The value that starts at `text[at]`, and where it ends. Raises `JSONDecodeError`, and `BadRow` for deep nesting."""
        self.problem = None
        try:
            return self._decode(text, at)
        except RecursionError:
            raise BadRow("json.nesting", "is nested too deeply.") from None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            self._complain(
                "json.duplicate_key", f"has a duplicate key: “{printable(twice, 40)}” stands twice in one object."
            )
        return made

    def _integer(self, digits: str) -> int:
        if len(digits) > NUMBER_DIGITS:
            self._complain("json.long_number", f"holds a number too long to be meant ({len(digits):,} digits).")
            return 0
        return int(digits)

    def _float(self, digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            self._complain("json.range", f"holds a number out of range: {printable(digits)}.")
        return value

    def _constant(self, name: str) -> None:
        self._complain("json.constant", f"holds {name}, which is not a valid JSON number.", "Write null instead.")

    def _complain(self, code: str, message: str, hint: str = "") -> None:
        self.problem = self.problem or BadRow(code, message, hint)


def loads(text: str, decoder: StrictDecoder | None = None) -> Any:
    """The one value in `text`. Raises `BadRow`. Whoever reads many lends a decoder."""
    decoder = decoder or StrictDecoder()
    text = text.rstrip("\r\n")  # a string that is not closed would else be told as one that holds a line's end
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = decoder.value(text, start)
    except json.JSONDecodeError as error:
        said = error.msg.removesuffix(" at")  # some of Python's sentences go on with the place
        raise BadRow("json.syntax", f"is not valid JSON: {said} at character {error.pos + 1}.") from None
    if decoder.problem is not None:
        raise decoder.problem
    rest = text[end:].strip(" \t\r\n")
    if rest:
        raise BadRow(
            "json.syntax", f"is not valid JSON: “{printable(rest, 40)}” follows the value.", "Write one object a line."
        )
    return value
