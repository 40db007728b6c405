"""Reads a trainer's journal from where Postgres has it: whole lines only, in batches of bounded size."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from backend.core.assignment import Line

log = logging.getLogger(__name__)

BATCH_BYTES = 1 << 20


@dataclass(frozen=True)
class Chunk:
    """The lines in the bytes [start, end) of a journal."""

    start: int
    end: int
    lines: Sequence[Line]


def read(path: Path, start: int, limit: int = BATCH_BYTES) -> Chunk:
    """The next whole lines. A half last line, which a killed trainer may leave, is not there yet, or never."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(limit)
            if len(data) == limit and b"\n" not in data:
                data += file.readline()  # one line that is longer than a batch
    except FileNotFoundError:
        data = b""
    whole, newline, _half = data.rpartition(b"\n")
    lines = [line for raw in whole.splitlines() if (line := _parse(raw)) is not None]
    return Chunk(start, start + len(whole) + len(newline), lines)


def _parse(raw: bytes) -> Line | None:
    """A line that cannot be read is told and passed over: one bad line must not hold back all that follow."""
    try:
        return Line.model_validate_json(raw)
    except ValidationError:
        log.error("a journal line cannot be read: %r", raw[:200])
        return None
