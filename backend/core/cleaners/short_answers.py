"""Answers of one or two words."""

from __future__ import annotations

import re

from backend.core.cleaners.base import Cleaner, Hit, answers_of
from backend.core.datasets.schema import Row

WORD = re.compile(r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]|[^\W\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]+")
"""A run of letters or digits; a Chinese, Japanese or Korean character counts as a word."""
FEWEST = 3


class ShortAnswers(Cleaner):
    """Right for labels, poor for conversation."""

    name = "short_answers"
    fix = "leave_out"
    tone = "note"

    def see(self, place: int, row: Row) -> Hit | None:  # noqa: ARG002
        answers = list(answers_of(row))
        if not answers or any(message.tool_calls for message in row.messages):
            return None
        longest = max(answers, key=len)
        if len(longest) > 40 or len(WORD.findall(longest)) >= FEWEST:
            return None
        return Hit(longest.strip() or "–")
