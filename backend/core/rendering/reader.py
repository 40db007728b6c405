"""Text to token ids with character offsets, where control tokens that data spells out stay plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from backend.core.rendering.types import Ids

GUARD = "\U0010fff0"
"""Stands behind each character of a control token that data spells out, until the text has been encoded."""
MARK = "\U0010fff1"
"""Stands for a turn whose place in the rendered text is sought."""
RESERVED = re.compile(f"[{GUARD}{MARK}]")
ALIASES = re.compile("[\U00100000-\U0010ffef]")
FIRST_ALIAS = 0x100000


class Tokens(NamedTuple):
    """Ids, and the characters `[start, end)` of the text that each came from."""

    ids: Ids
    starts: Ids
    ends: Ids


class ControlTextError(ValueError):
    """The tokenizer makes a control token from text that is meant as plain."""


class Reader:
    """Encodes as inference does: the whole text at once, with nothing added before or behind it."""

    def __init__(self, backend: Any, control: Sequence[str]) -> None:
        self._description = backend.to_str()
        self._ids = {token: backend.token_to_id(token) for token in control}
        self._plain = _tokenizer(
            self._description
        )  # of its own: transformers pads and truncates by settings of `backend`
        longest_first = sorted(control, key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self.control_ids = frozenset(self._ids.values())

    def guard(self, text: str) -> str:
        """The text with every control token in it broken up; the same text where there is none."""
        return self.control.sub(lambda found: "".join(each + GUARD for each in found[0]), text)

    def read(self, texts: Sequence[str]) -> list[Tokens]:
        """Encode texts without guards."""
        return [_tokens(each) for each in self._plain.encode_batch(list(texts), add_special_tokens=False)]

    def read_guarded(self, text: str) -> Tokens:
        """Encode one text with guards, which leave no trace: offsets count as if they had never stood there.

        A control token that stands whole was written by the template. It is exchanged for an alias of the same length
        and a tokenizer is asked that knows the aliases alone, so the words of the data are like any others to it.
        Raises `ControlTextError` where even so a control token comes out of the data.
        """
        aliased = self.control.sub(lambda found: self._alias[found[0]], text).replace(GUARD, "")
        tokens = _tokens(self._aliased.encode(aliased, add_special_tokens=False))
        for position, token in enumerate(tokens.ids.tolist()):
            if token in self._id_of_alias:
                tokens.ids[position] = self._id_of_alias[token]
            elif token in self.control_ids:
                start, end = tokens.starts[position], tokens.ends[position]
                raise ControlTextError(aliased[start:end])
        return tokens

    @cached_property
    def _alias(self) -> dict[str, str]:
        return {token: chr(FIRST_ALIAS + n) * len(token) for n, token in enumerate(self._ids)}

    @cached_property
    def _aliased(self) -> Any:
        description = json.loads(self._description)
        for each in description["added_tokens"]:
            each["content"] = self._alias.get(each["content"], each["content"])
        return _tokenizer(json.dumps(description))

    @cached_property
    def _id_of_alias(self) -> dict[int, int]:
        return {self._aliased.token_to_id(alias): self._ids[token] for token, alias in self._alias.items()}


def _tokenizer(description: str) -> Any:
    """A tokenizer that adds nothing, cuts nothing and leaves no space out of its offsets."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(description)
    tokenizer.post_processor = None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokens(encoding: Any) -> Tokens:
    import numpy as np

    offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
    return Tokens(np.array(encoding.ids, dtype=np.int32), offsets[:, 0], offsets[:, 1])
