"""What the model card tells beside the recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from backend.core.assignment import Amendment
from tests.worker.exports.runs import finished_run
from worker.exports.card import card
from worker.exports.context import DataFact, ExportContext

EVIL = (
    "<img src=x onerror=alert(1)>",
    "`<svg onload=alert(1)>`",
    "``` \\| <b>bold</b> | `",
    "\\`<i>x</i>\\`",
    "![x](javascript:alert(1)) [x](data:text/html,x) <javascript:alert(1)>",
    "a\n\n<script>alert(1)</script>\n```\n<script>alert(1)</script>",
)


@pytest.fixture(scope="module")
def context(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportContext:
    return finished_run(tiny_base, tmp_path_factory.mktemp("run"), {"kind": "lora", "r": 4})


def test_changes_in_mid_run_are_listed_with_the_step_that_they_held_from(context: ExportContext) -> None:
    change = Amendment(sequence=1, field="training.learning_rate", value=5e-5, step=7)
    assert "Changed in mid-run" not in card(context, "adapter", {})
    text = card(replace(context, changes=(change,)), "adapter", {})
    assert "## Changed in mid-run" in text
    assert "| 7 | training.learning_rate | `5e-05` |" in text


@pytest.mark.parametrize("kind", ["adapter", "merged"])
@pytest.mark.parametrize("evil", EVIL)
def test_markup_in_whatever_people_wrote_is_text_in_the_card(context: ExportContext, kind: str, evil: str) -> None:
    """For a reader that lets HTML through, as those of Markdown do."""
    asked = context.recipe.evaluation.model_copy(update={"prompts": (evil,)})
    spoiled = replace(
        context,
        run_name=evil,
        base_name=evil,
        recipe=context.recipe.model_copy(update={"evaluation": asked}),
        data=(DataFact(evil, 1, 3, "0" * 64),),
        metrics={evil: (1.0, 0.5)},
        changes=(Amendment(sequence=1, field="evaluation.prompts", value=[evil], step=7),),
    )
    read = list(pieces(card(spoiled, kind, {}).split("---\n", 2)[2]))
    assert {token.type for token in read} & {"html_inline", "html_block", "link_open", "image"} == set()
    texts, line = [token.content for token in read], " ".join(evil.splitlines())
    assert texts.count(line) >= 4, "the heading, the base, the data set and the metric, as they were written"
    assert json.dumps([evil]) in texts


def pieces(text: str) -> Iterator[Token]:
    """What a reader makes of this Markdown, each text in one piece."""
    for block in MarkdownIt("commonmark", {"html": True}).enable("table").parse(text):
        yield block
        yield from block.children or ()
