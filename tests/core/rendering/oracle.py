"""Which tokens should be learned, found in another way than the product's.

It knows the family's end token by hand, looks for each answer's words in the text that transformers renders, and takes
the tokens that transformers itself makes of that text. It asks neither a generation prompt nor `{% generation %}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.core.datasets.schema import Message
from tests.core.rendering.families import Family


def expected(tokenizer: Any, family: Family, messages: Sequence[Message]) -> tuple[str, list[int], list[bool]]:
    """The rendered text, its token ids, and one flag a token."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    characters = _answers(text, family, messages)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    flags, covered = [], 0
    for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        first = min(start, covered)  # ByteLevel leaves leading spaces out of its offsets
        inside = any(first < stop and end > begin for begin, stop in characters)
        # A control token of the header may swallow the white space that an answer begins with.
        header = token in special and any(first < begin < end for begin, _ in characters)
        flags.append(inside and not header)
        covered = max(covered, end)
    return text, encoding["input_ids"], flags


def _answers(text: str, family: Family, messages: Sequence[Message]) -> list[tuple[int, int]]:
    found, position = [], 0
    for message in messages:
        words = message.content.strip() if family.strips else message.content
        position = text.index(words, position)
        start, position = position, position + len(words)
        if message.role == "assistant":
            end = text.index(family.end, position) + len(family.end)
            if message.train:
                found.append((start, end))
            position = end
    return found
