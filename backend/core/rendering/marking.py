"""Rows with every token marked, whole and in turns: what a person looks through. Runs in a limited process.

Nothing is cut here: where a cut falls depends on a number that a person moves by hand, so who draws the rows applies it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.core.assignment import DataFile
from backend.core.datasets.picking import pick
from backend.core.datasets.schema import Row
from backend.core.errors import Problem
from backend.core.rendering.masks import encode_rows
from backend.core.rendering.measure import spans_of
from backend.core.rendering.prepare import has_conversations
from backend.core.rendering.tokenizer import load_tokenizer
from backend.core.rendering.types import Encoded, Prepared
from backend.core.rendering.without_torch import without_torch

ROW_TOKENS, ANSWER_TOKENS = 20_000, 300_000
"""Of one row, and of one answer, at most so many are told; what follows is counted."""
HEADER_CHARACTERS = 80


def mark(payload: dict[str, Any]) -> dict[str, Any]:
    """Payload: `file`, `model_folder`, `chat_template`, `assistant_only_loss`, `places` (rows, from 0)."""
    without_torch()
    file = DataFile(name="rows", version=1, path=payload["file"])
    prepared = load_tokenizer(
        Path(payload["model_folder"]), payload["chat_template"], conversations=has_conversations([file])
    )
    picked = pick(file.path, payload["places"])
    rows = [each.row for each in picked]
    encoded = encode_rows(rows, prepared, assistant_only_loss=payload["assistant_only_loss"])
    told, left = [], ANSWER_TOKENS
    for each, tokens in zip(picked, encoded, strict=True):
        told.append({"place": each.place, "number": each.row.number, **marked(each.row, tokens, prepared, left)})
        left = max(0, left - min(ROW_TOKENS, told[-1].get("tokens", 0)))
    return {"rows": told, "context_length": prepared.context_length}


def marked(row: Row, encoded: Encoded | Problem, prepared: Prepared, most: int = ROW_TOKENS) -> dict[str, Any]:
    """One row: its tokens with their texts, which of them are learned or special, and the turns that they make."""
    if isinstance(encoded, Problem):
        return {"problem": encoded.as_json()}
    shown = min(len(encoded), most, ROW_TOKENS)
    ids = encoded.input_ids.tolist()
    return {
        "tokens": len(encoded),
        "ids": ids[:shown],
        "texts": texts_of(encoded)[:shown],
        "learned": spans_of(encoded),
        "special": [place for place, token in enumerate(ids[:shown]) if token in prepared.reader.control_ids],
        "has_bos": prepared.bos_token_id is not None and ids[0] == prepared.bos_token_id,
        "turns": turns_in(encoded, row, prepared),
        "control_text": list(encoded.control_text),
        "endless": any(span.train and not span.ends for span in encoded.spans),
    }


def texts_of(encoded: Encoded) -> list[str]:
    """One text a token. Joined they are the row's text: a character that several tokens share stands with the last of
    them, so that it is told once and whole."""
    found, written = [], 0
    ends = encoded.ends.tolist()
    for place, end in enumerate(ends):
        shares = place + 1 < len(ends) and ends[place + 1] == end and end > written
        found.append("" if shares else encoded.text[written:end])
        written = written if shares else max(written, end)
    return found


def turns_in(encoded: Encoded, row: Row, prepared: Prepared) -> list[dict[str, Any]]:
    """The turns as `{role, start, body, stop, added}`, in tokens: a turn's header is `[start, body)`. `added` ones stand
    in no row: the template writes them by itself."""
    if row.text is not None:
        return [{"role": "text", "start": 0, "body": 0, "stop": len(encoded), "added": False}]
    ends = prepared.chat.ends if prepared.chat is not None else ()
    behind = re.compile(rf"(?:{'|'.join(map(re.escape, ends)) or '(?!)'})+\s*?(?:\n|(?=\S)|$)")
    cuts = _divided(encoded.text, places_of(encoded, row), behind)

    def token(character: int) -> int:
        return (
            int(encoded.ends.searchsorted(character, side="right")) if character < len(encoded.text) else len(encoded)
        )

    return [
        {"role": role, "start": token(start), "body": token(body), "stop": token(stop), "added": added}
        for role, start, body, stop, added in cuts
    ]


_Cut = tuple[str, int, int, int, bool]


def _divided(text: str, places: Sequence[tuple[str, int, int]], behind: re.Pattern[str]) -> list[_Cut]:
    """The text as turns, in characters. Between the words of two turns stand the end of one and the header of the next:
    they part behind the first end token, and a whole turn that stands between is the template's own."""
    turns: list[_Cut] = []
    position = 0
    for role, first, last in places:
        gap = text[position:first]
        begin = position + (_tail(gap, behind) if turns else 0)
        if turns:
            turns[-1] = (*turns[-1][:3], begin, turns[-1][4])
        own = [found.end() for found in behind.finditer(text, begin, first)]
        if own:
            turns.append(("", begin, begin + _header(text[begin : own[-1]]), own[-1], True))
            begin = own[-1]
        turns.append((role, begin, first, last, False))
        position = last
    if turns:
        turns[-1] = (*turns[-1][:3], len(text), turns[-1][4])
    return turns or [("", 0, 0, len(text), False)]


def _tail(gap: str, behind: re.Pattern[str]) -> int:
    """How much of what follows a turn's words is still of that turn."""
    found = behind.search(gap)
    if found:
        return found.end()
    return 1 if gap.startswith("\n") else 0


def _header(turn: str) -> int:
    """How much of a turn that the template wrote is its header: the first line, where that is short."""
    line = turn.find("\n") + 1
    return line if 0 < line <= HEADER_CHARACTERS else 0


def places_of(encoded: Encoded, row: Row) -> list[tuple[str, int, int]]:
    """Role, start and end of each message's own words in the text, as far as the template left them as they were. An
    answer reaches to behind its end token."""
    answers = iter(encoded.spans)
    found: list[tuple[str, int, int]] = []
    position = 0
    for message in row.messages:
        span = next(answers, None) if message.role == "assistant" else None
        words = message.content.strip()
        start = span.start if span else encoded.text.find(words, position)
        if start >= 0:
            position = span.end if span else start + len(words)
            found.append((message.role, start, position))
    return found
