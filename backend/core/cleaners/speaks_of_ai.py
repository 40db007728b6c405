"""Answers in which a model speaks of being one."""

from __future__ import annotations

import re

from backend.core.cleaners.base import Cleaner, Hit, answers_of, quoted
from backend.core.datasets.schema import Row

PHRASES = re.compile(
    r"\b(?:as|i am|i'm|being) (?:just |only )?an? (?:ai|artificial intelligence|large language|language)"
    r"(?: (?:language )?(?:model|assistant))?\b"
    r"|\bmy (?:knowledge|training) (?:cut-?off|data)\b"
    r"|\b(?:trained|developed|created) by (?:openai|anthropic|google deepmind|meta ai|alibaba cloud)\b"
    r"|作为(?:一个|一名|一种)?(?:人工智能|AI|大型?语言模型|语言模型|聊天机器人)"
    r"|我(?:只)?是(?:一个|一名|一款)?(?:由.{1,12}(?:开发|训练)的)?(?:人工智能|AI ?(?:语言)?模型|AI ?助手|大型?语言模型|语言模型)"
    r"|我的(?:知识|训练数据)(?:截止|截至)",
    re.IGNORECASE,
)


class SpeaksOfAi(Cleaner):
    """What another model said of itself is learned like everything else, and said again in its place."""

    name = "speaks_of_ai"
    fix = "leave_out"

    def see(self, place: int, row: Row) -> Hit | None:  # noqa: ARG002
        for answer in answers_of(row):
            if found := PHRASES.search(answer):
                return quoted(answer, *found.span())
        return None
