"""Marked rows as they are drawn: cut at a length, in turns, long ones folded, every token learned, read or lost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Literal

from backend.core.models import Json

Kind = Literal["learned", "read", "lost", "cut"]
"""`lost` would be learned and is cut; `cut` would only be read."""
FOLD_ABOVE, HEAD, TAIL, AROUND, LEAST_FOLD = 220, 90, 40, 40, 24
"""A turn of more tokens than the first is folded: the beginning, the end and what stands at the cut stay open."""
RULE_LEAST = 64


@dataclass(frozen=True)
class Cut:
    """Where rows are cut, and what becomes of longer ones."""

    limit: int
    truncation: str

    def kept(self, tokens: int, *, has_bos: bool) -> tuple[int, int]:
        """The tokens `[first, last)` that stay; a row's BOS stays besides. A row that would be refused is shown as if
        its end were cut, since that is what a cut costs."""
        over = tokens - self.limit
        if over <= 0 or self.truncation == "drop":
            return 0, tokens
        if self.truncation == "cut_start":
            return over + has_bos, tokens
        return 0, self.limit


@dataclass(frozen=True)
class Token:
    n: int
    """Its place in the row, from 1."""
    id: int
    text: str
    kind: Kind
    special: bool
    goes_on: bool = False
    """The next token goes on with a line break that this one ends with."""

    @property
    def shown(self) -> str:
        """Line breaks are seen, and break the line once however many there are."""
        shown = re.sub("\n+", lambda found: "↵" * len(found[0]) + "\n", self.text)
        return shown.removesuffix("\n") if self.goes_on else shown

    @property
    def named(self) -> str:
        """For a box and the line below: what cannot be seen is written out."""
        return self.text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥") or "·"


@dataclass(frozen=True)
class Part:
    """A stretch of a turn: tokens, the line where the row is cut, or tokens that are folded away."""

    tokens: list[Token] = field(default_factory=list)
    folded: int = 0
    folded_learned: bool = False
    cut_at: int | None = None

    @property
    def stretches(self) -> list[tuple[str, list[Token]]]:
        """The tokens in runs of ink and of pencil."""
        runs = groupby(self.tokens, key=lambda token: "pencil" if token.kind == "read" else "ink")
        return [(name, list(tokens)) for name, tokens in runs]


@dataclass(frozen=True)
class Turn:
    role: str
    added: bool
    """Written by the template, not by the row."""
    header: list[Token]
    parts: list[Part]
    tokens: int
    learned: int
    learnable: int
    """What would be learned were nothing cut."""
    is_as_before: bool = False
    """The same as the turn that the template added to the row above."""


@dataclass(frozen=True)
class InkedRow:
    place: int
    number: int
    tokens: int = 0
    learned: int = 0
    cut: int = 0
    lost: int = 0
    """Tokens that would teach and are cut."""
    loses_end: bool = False
    is_left_out: bool = False
    endless: bool = False
    beyond: int = 0
    """Tokens that are not shown at all, since the row is far too long."""
    turns: list[Turn] = field(default_factory=list)
    control_text: list[str] = field(default_factory=list)
    problem: Json | None = None


def ink(rows: Sequence[Json], cut: Cut, *, opened: int | None = None, whole: bool = False) -> list[InkedRow]:
    """Rows as `rendering/marking.py` tells them, drawn. `opened` is the place of one that is shown whole."""
    drawn: list[InkedRow] = []
    before: str | None = None
    for row in rows:
        inked = ink_row(row, cut, before, is_open=whole or row["place"] == opened)
        drawn.append(inked)
        before = added_text(row) or before
    return drawn


def added_text(row: Json) -> str:
    """What the template wrote by itself."""
    texts = row.get("texts", [])
    return "".join("".join(texts[t["start"] : t["stop"]]) for t in row.get("turns", []) if t["added"])


def ink_row(row: Json, cut: Cut, before: str | None, *, is_open: bool) -> InkedRow:
    place, number = row["place"], row["number"]
    if "problem" in row:
        return InkedRow(place, number, problem=row["problem"])
    count, first = row["tokens"], int(row["has_bos"])
    start, stop = cut.kept(count, has_bos=row["has_bos"])
    left_out = cut.truncation == "drop" and count > cut.limit
    tokens = list(_tokens(row, start, stop, first, left_out=left_out))
    whole = sum(last - begin for begin, last in row["learned"])
    learned = 0 if left_out else _learned(row, start, stop)
    last = row["learned"][-1][1] if row["learned"] else 0
    return InkedRow(
        place,
        number,
        tokens=count,
        learned=learned,
        cut=count - (stop - start) - (first if start > first else 0),
        lost=whole - learned,
        loses_end=0 < stop < last and not left_out,
        is_left_out=left_out,
        endless=row["endless"],
        beyond=count - len(tokens),
        turns=[_turn(each, tokens, (start, stop), cut, before, row, is_open) for each in row["turns"]],
        control_text=row["control_text"],
    )


def _learned(row: Json, start: int, stop: int) -> int:
    """Learned tokens inside of what stays. The first token that stays is never learned: nothing predicts it."""
    first = start + (1 if start and not row["has_bos"] else 0)
    return sum(max(0, min(last, stop) - max(begin, first)) for begin, last in row["learned"])


def _tokens(row: Json, start: int, stop: int, first: int, *, left_out: bool) -> Iterator[Token]:
    special = set(row["special"])
    learned = {place for begin, last in row["learned"] for place in range(begin, min(last, len(row["ids"])))}
    unpredicted = start if start and not row["has_bos"] else -1
    for place, (token, text) in enumerate(zip(row["ids"], row["texts"], strict=True)):
        stays = start <= place < stop or (place == 0 and first)
        teaches = place in learned
        kind: Kind = (
            ("learned" if teaches and place != unpredicted else "read") if stays else "lost" if teaches else "cut"
        )
        goes_on = text.endswith("\n") and place + 1 < len(row["texts"]) and row["texts"][place + 1].startswith("\n")
        yield Token(place + 1, token, text, "read" if left_out else kind, place in special, goes_on)


def _turn(
    told: Json, tokens: list[Token], kept: tuple[int, int], cut: Cut, before: str | None, row: Json, is_open: bool
) -> Turn:
    start, body, stop = told["start"], told["body"], told["stop"]
    said = tokens[body:stop]
    text = "".join(token.text for token in tokens[start:stop])
    # A cut inside of a header is told before the words.
    lines = sorted({max(at, body) for at in kept if 0 < at < row["tokens"] and start <= at < stop})
    return Turn(
        role=told["role"],
        added=told["added"],
        header=tokens[start:body],
        parts=_parts(said, body, lines, cut.limit, is_open=is_open),
        tokens=stop - start,
        learned=sum(token.kind == "learned" for token in tokens[start:stop]),
        learnable=sum(max(0, min(last, stop) - max(begin, start)) for begin, last in row["learned"]),
        is_as_before=told["added"] and before is not None and text == before,
    )


def _parts(said: list[Token], body: int, lines: list[int], limit: int, *, is_open: bool) -> list[Part]:
    """A turn's words in stretches, with a line at each place (of the row) where it is cut."""
    edges = [0, *(line - body for line in lines), len(said)]
    parts: list[Part] = []
    for index, (first, last) in enumerate(pairwise(edges)):
        if index:
            parts.append(Part(cut_at=limit))
        chunk = said[first:last]
        if is_open or len(said) <= FOLD_ABOVE:
            parts += [Part(chunk)] if chunk else []
        else:
            parts += _folded(chunk, HEAD if index == 0 else AROUND, TAIL)
    return parts


def _folded(chunk: list[Token], head: int, tail: int) -> list[Part]:
    hidden = chunk[head : max(head, len(chunk) - tail)]
    if len(hidden) < LEAST_FOLD:
        return [Part(chunk)] if chunk else []
    learned = all(token.kind == "learned" for token in hidden)
    return [Part(chunk[:head]), Part(folded=len(hidden), folded_learned=learned), Part(chunk[-tail:])]


@dataclass(frozen=True)
class Rule:
    """The small bar of a row: shares of the longest row, in percent."""

    read: float
    learned: float
    over: float
    line: float | None

    @classmethod
    def of(cls, row: InkedRow, cut: Cut, longest: int) -> Rule:
        scale = 100 / max(RULE_LEAST, longest)
        read = row.tokens - row.learned - row.cut
        line = cut.limit * scale
        return cls(read * scale, row.learned * scale, row.cut * scale, line if line <= 100 else None)
