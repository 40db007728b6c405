"""What the server says of problems, in Chinese: every sentence has its translation, and keeps its values."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from backend.web.phrases import PLACE, Phrases
from tests.web.phrases_in_code import ROOT, phrases_of

CATALOGUE: dict[str, str] = json.loads((ROOT / "frontend" / "locales" / "messages.zh.json").read_text("utf-8"))


@pytest.mark.parametrize("part", ["backend/core", "backend/web", "worker"])
def test_every_sentence_that_the_studio_may_say_is_translated(part: str) -> None:
    assert sorted(phrases_of(ROOT / part) - set(CATALOGUE)) == []


def test_a_translation_names_only_values_that_are_there() -> None:
    for phrase, said in CATALOGUE.items():
        assert all(int(number) < phrase.count(PLACE) for number in re.findall(r"\{(\d)\}", said)), phrase


def test_values_are_kept_and_known_ones_are_said_too() -> None:
    phrases = Phrases(CATALOGUE)
    assert phrases.said("There is no run “a.b {0}”.") == "没有训练“a.b {0}”。"
    assert phrases.said("“owl” cannot be paused: it is succeeded.") == "“owl”不能暂停：它已完成。"


def test_several_sentences_are_said_one_by_one_and_unknown_ones_stay() -> None:
    phrases = Phrases(CATALOGUE)
    assert phrases.said("Shorten it. Strange thing. Try again in a moment.") == "请缩短。Strange thing. 请稍后再试。"
    assert phrases.said("Strange thing. Stranger.") == "Strange thing. Stranger."


def test_reasons_within_a_sentence_are_said_too() -> None:
    phrases = Phrases(CATALOGUE)
    refused = "The chat template refuses it: it cannot show the tools of this row."
    assert phrases.said(refused) == "对话模板拒绝了它：它无法写出这一行的工具。"
    assert (
        phrases.said("is not valid JSON: Expecting value at character 33.")
        == "不是有效的 JSON：第 33 个字符处应有一个值。"
    )


def test_places_are_told_too_and_names_stay() -> None:
    phrases = Phrases(CATALOGUE)
    assert phrases.placed("row 3, owls row 1,208 and 40 more") == "第 3 行, owls 第 1,208 行 等，另有 40 行"
    assert phrases.placed("line 7") == "第 7 行"
    assert phrases.placed("data.sets.0") == "data.sets.0"


async def test_pages_and_answers_speak_the_readers_language(admin: httpx.AsyncClient) -> None:
    chinese = {"accept-language": "zh-CN,zh;q=0.9"}
    assert "没有训练“none”。" in (await admin.get("/runs/none", headers=chinese)).text
    told = (await admin.get("/api/v1/runs/none", headers=chinese)).json()["error"]
    assert (told["code"], told["message"]) == ("not_found", "没有训练“none”。")
    assert (await admin.get("/api/v1/runs/none")).json()["error"]["message"] == "There is no run “none”."
