"""Inputs that are almost right: real ones, broken at random. All chance comes from the one seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"-0", b"9" * 40, b"9" * 5000, b"1E-400", b"0x10", b"18446744073709551616")
LETTERS = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    "\u202e".encode(),
    "𝄞".encode(),
    b"\r",
    b"\x85",
)
MARKS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\n",
    b"\\",
    b"'",
    b"{{",
    b"{%",
    b"%}",
    b"&a ",
    b"*a",
    b"!!python/object ",
    b"- ",
)
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
DEEP = 100_000
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 10**30, 10**400, "", "\0", "\ud800", "a" * 70_000, [], {}, [[]], {"a": {}}, "../../etc/passwd",
    ["x"], "inf", "NaN", "1e400",
)  # fmt: skip


class Mutator:
    """Breaks inputs. Two with the same seed break them alike."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def bytes_of(self, seeds: Sequence[bytes]) -> bytes:
        """One of the seeds, changed a few times."""
        made = self.draw.choice(seeds)
        for _ in range(self.draw.choice((1, 1, 1, 2, 3, 8))):
            made = self.draw.choice(CHANGES)(self.draw, made, seeds)
        return made

    def json_of(self, seeds: Sequence[Any]) -> Any:
        """One of the seeds with some value somewhere in it replaced, removed, doubled or moved."""
        made = json.loads(json.dumps(self.draw.choice(seeds)))
        for _ in range(self.draw.choice((1, 1, 2, 4))):
            made = self._changed(made)
        return made

    def _changed(self, value: Any) -> Any:
        """Down a random way into the value, and there something else."""
        if isinstance(value, dict) and value and self.draw.random() < 0.85:
            key = self.draw.choice(sorted(value))
            if self.draw.random() < 0.15:
                return {name: each for name, each in value.items() if name != key}
            if self.draw.random() < 0.1:
                return value | {self.draw.choice(("", "\0", "\ud800", "__class__", key + "_")): value[key]}
            return value | {key: self._changed(value[key])}
        if isinstance(value, list) and value and self.draw.random() < 0.85:
            at = self.draw.randrange(len(value))
            return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        return self.draw.choice((*VALUES, [value], {"content": value}, str(value)))


def _flip(draw: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    if not data:
        return b"\0"
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def _insert(draw: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    at = draw.randint(0, len(data))
    return data[:at] + draw.choice(draw.choice((NUMBERS, LETTERS, MARKS))) + data[at:]


def _cut_off(draw: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    return data[: draw.randint(0, len(data))]


def _remove(draw: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    start, end = sorted(draw.randint(0, len(data)) for _ in range(2))
    return data[:start] + data[min(end, start + 64) :]


def _repeat(draw: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    start, end = sorted(draw.randint(0, len(data)) for _ in range(2))
    return data[:end] + data[start:end][:4096] * draw.choice((1, 2, 50)) + data[end:]


def _splice(draw: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = draw.choice(seeds)
    return data[: draw.randint(0, len(data))] + other[draw.randint(0, len(other)) :]


def _extreme(draw: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    size = draw.choice((1, 2, 4, 8))
    number = (draw.choice(EXTREMES) & ((1 << 8 * size) - 1)).to_bytes(size, draw.choice(("little", "big")))
    at = draw.randint(0, len(data))
    return data[:at] + number + data[at + size :]


def _deepen(draw: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    at = draw.randint(0, len(data))
    return (
        data[:at]
        + draw.choice((b"[", b'{"a":', b"- ", b"(", b"{% if x %}")) * draw.choice((40, 1200, DEEP))
        + data[at:]
    )


CHANGES: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    _flip, _flip, _insert, _insert, _insert, _cut_off, _remove, _repeat, _splice, _extreme, _deepen,
)  # fmt: skip
