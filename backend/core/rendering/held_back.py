"""Questions of rows that a run holds back: prompts that it is not taught the answers of. Runs in a limited process."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from backend.core.assignment import DataFile
from backend.core.datasets.schema import Row
from backend.core.rendering.mixture import lot
from backend.core.rendering.prepare import rows_of

LONGEST = 2000
"""Characters: what is longer is no prompt that anybody reads."""


def prompts(payload: dict[str, Any]) -> list[str]:
    """The rows with the lowest lots are held back in every run with this seed; the same question is asked once.

    Payload: `files` (as `DataFile`), `seed`, `share`, `count`.
    """
    found = heapq.nsmallest(payload["count"], set(_questions(payload)))
    return [question for _, question in found]


def _questions(payload: dict[str, Any]) -> Iterator[tuple[float, str]]:
    for file in payload["files"]:
        for row in rows_of(DataFile.model_validate(file)):
            chance, question = lot(row, payload["seed"]), question_of(row)
            if question and chance < payload["share"]:
                yield chance, question


def question_of(row: Row) -> str:
    """What was asked first, where it stands at the beginning; of other rows an answer would not fit."""
    asked = next((turn for turn in row.messages if turn.role != "system"), None)
    text = asked.content.strip() if asked and asked.role == "user" else ""
    return text if len(text) <= LONGEST else ""
