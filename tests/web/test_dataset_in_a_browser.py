"""The page of a data set in a real browser: the ink is the trainer's mask, and what a hand moves the server works out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core.assignment import DataFile
from backend.core.models import DatasetVersion, Role
from backend.core.recipe import Recipe
from backend.core.rendering.prepare import prepare
from backend.core.rendering.tokenizer import load_tokenizer
from backend.core.settings import Settings
from tests.support.trouble import signed_in
from tests.web.conftest import account

ANSWERS = (
    "The owl eats mice.",
    "The cow eats grass, and the horse eats hay. " * 4,
    "As an AI language model, I have never seen an owl.",
    "The frog is green.\n\n1. It jumps.\n2. It swims.",
    "The owl eats mice.",
    "The duck eats bread. " * 9,
    "你好，猫头鹰吃老鼠。",
    "Write to ana@example.org about the kite.",
)
LONG = (2, 6)
"""The rows that are longer than 70 tokens."""


@pytest.fixture
def context(
    browser: Browser, served: str, session: Session, here: Settings, tiny_base: Path
) -> Iterator[BrowserContext]:
    """Somebody with a data set `animals` and a model `tiny`."""
    shutil.copytree(tiny_base, here.folder("models") / "tiny")
    somebody = account(session, Role.MEMBER, "mira")
    rows = [
        {"instruction": f"What do you say, {n}?" if n != 5 else "What do you say, 1?", "output": answer}
        for n, answer in enumerate(ANSWERS, 1)
    ]
    with signed_in(browser, served, somebody.cookie) as context:
        context.set_default_timeout(60_000)
        sent = context.request.put(
            "/api/v1/datasets/animals?filename=animals.jsonl",
            data="".join(json.dumps(row) + "\n" for row in rows).encode(),
            headers={"x-csrf-token": somebody.identity.csrf_token, "origin": served},
        )
        assert sent.status == 201
        yield context


def look(page: Page, query: str = "") -> None:
    """Opens the page and waits until nothing is asked for any more."""
    page.goto(f"/datasets/animals?model=tiny&{query}")
    expect(page.locator("#cut-grip")).to_be_attached(timeout=30_000)
    expect(page.locator("#preview[hx-trigger], #quality[hx-trigger]")).to_have_count(0, timeout=30_000)
    page.wait_for_load_state("networkidle")


def masks(here: Settings, session: Session) -> dict[int, tuple[list[int], list[int]]]:
    """Ids and learned ids of every row, as the trainer prepares them."""
    key = session.scalars(select(DatasetVersion.key)).one()
    session.rollback()
    prepared = load_tokenizer(here.folder("models") / "tiny")
    body = {"model": "tiny", "data": {"sets": ["animals"]}, "evaluation": {"eval_share": 0}}
    files = [DataFile(name="animals", version=1, path=here.root / key)]
    examples = prepare(files, prepared, Recipe.model_validate(body), seed=1).train
    found = {}
    for example in examples:
        ids = example.input_ids.tolist()
        number = int(prepared.tokenizer.decode(ids).partition("say, ")[2].partition("?")[0])
        found[number] = (ids, [label for label in example.labels.tolist() if label >= 0])
    return found


def ids(page: Page, selector: str) -> list[int]:
    found: list[int] = page.locator(selector).evaluate_all("all => all.map((each) => Number(each.dataset.id))")
    return found


def test_the_ink_is_the_mask_of_the_trainer_in_both_views_of_tokens(
    page: Page, here: Settings, session: Session
) -> None:
    taught = masks(here, session)
    for view, learned in (("tokens", ".box.learned"), ("rendered", ".ink i, {row} .stamp.inked")):
        for first in (1, 6):
            look(page, f"view={view}&row={first}&max_length=256")
            for number in range(first, min(first + 5, 9)):
                row = f"#row-{number}"
                expected = taught[1 if number == 5 else number]
                assert ids(page, f"{row} [data-id]") == expected[0]
                assert ids(page, f"{row} {learned.format(row=row)}") == expected[1]


def test_a_row_is_seen_in_four_ways_and_each_has_an_address(page: Page) -> None:
    look(page, "row=4")
    row = page.locator("#row-4")
    expect(row.locator(".ink").first).to_contain_text("The frog is green.↵↵")
    page.get_by_role("link", name="Raw").click()
    expect(row.locator("pre")).to_contain_text('"instruction": "What do you say, 4?"')
    assert "view=raw" in page.url
    page.get_by_role("link", name="Normalised").click()
    expect(row.locator(".stored").last).to_have_text("The frog is green.\n\n1. It jumps.\n2. It swims.")
    page.get_by_role("link", name="Tokens", exact=True).click()
    row.locator(".box").first.focus()
    page.keyboard.press("ArrowRight")
    expect(row.locator(".box").nth(1)).to_be_focused()
    expect(page.locator("#token-line")).to_contain_text("Row 4, token 2 of ")
    page.go_back()
    expect(row.locator(".stored").last).to_be_visible()


def test_rows_are_gone_through_by_keyboard_filter_and_search(page: Page) -> None:
    look(page, "max_length=70")
    for _ in range(2):
        page.keyboard.press("j")
    expect(page.locator("#row-2")).to_be_focused()
    page.keyboard.press("k")
    expect(page.locator("#row-1")).to_be_focused()
    page.keyboard.press("c")
    expect(page.locator("#row")).to_have_value("2")
    page.keyboard.press("c")
    expect(page.locator("#row")).to_have_value("6")
    expect(page.locator("#row-6 .badge.warn")).to_have_text("cut")
    expect(page.locator("#row-6 .stamp.missing")).to_have_text("<|im_end|>")
    page.select_option("#which", "cut")
    expect(page.locator("#preview .sample")).to_have_count(len(LONG))
    page.select_option("#which", "all")
    expect(page.locator("#preview .sample")).to_have_count(5)
    page.fill("#q", "FROG")
    page.keyboard.press("Enter")
    expect(page.locator("#preview .sample")).to_have_count(1)
    assert "q=FROG" in page.url


def test_the_cut_is_moved_by_keyboard_and_by_mouse_and_every_figure_is_the_servers(page: Page) -> None:
    look(page, "max_length=256")
    grip = page.locator("#cut-grip")
    expect(page.locator("#verdict")).to_contain_text("No row is cut")
    grip.focus()
    page.keyboard.press("Home")
    told_as_the_server_says(page)
    for key in ("ArrowRight", "ArrowRight", "PageUp", "ArrowLeft"):
        page.keyboard.press(key)
    told_as_the_server_says(page)
    expect(grip).to_be_focused()
    box = page.locator("[data-cut-plot]").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40, steps=5)
    page.mouse.up()
    told_as_the_server_says(page)
    limit = int(page.locator("#max_length").input_value())
    page.wait_for_url(f"**max_length={limit}**")
    expect(page.locator("#preview .sample .badge.warn").first).to_have_text("cut")
    page.get_by_role("link", name="Leave them out").click()
    expect(page.locator("#verdict .pill")).to_have_text("Ready to train")
    link = page.locator("#train").get_attribute("href")
    assert link
    assert f"data.max_length={limit}&data.truncation=drop" in link


def told_as_the_server_says(page: Page) -> None:
    """The verdict and the chosen line of the costs are those of the API at the length that the mark stands at."""
    limit = int(page.locator("#cut-grip").get_attribute("aria-valuenow") or 0)
    expect(page.locator("#verdict")).to_have_attribute("data-limit", str(limit))
    query = f"model=tiny&max_length={limit}&truncation=cut_end"
    told: dict[str, Any] = page.request.get(f"/api/v1/datasets/animals/lengths?{query}").json()
    expect(page.locator("#verdict .share b")).to_have_text(f"{told['trained_tokens']:,}")
    cells = page.locator("#costs tr[aria-selected] td.num")
    expect(cells).to_have_text([f"{told[name]:,}" for name in ("over", "lost_tokens", "ends_lost")])
    expect(page.locator("#cut-grip")).to_have_attribute("aria-valuetext", f"{limit} tokens, {told['over']} rows longer")


def test_a_finding_is_looked_at_and_mended_in_a_new_version_that_can_be_compared(page: Page, session: Session) -> None:
    look(page)
    finding = page.locator("[data-finding=personal]")
    finding.get_by_role("link", name="Show 1 row").click()
    expect(page.locator("#preview .sample")).to_have_count(1)
    expect(page.locator("#row-8 .badge", has_text="personal data")).to_be_visible()
    page.locator("[data-finding=personal]").get_by_role("button", name="Mask them").click()
    page.wait_for_url("**made=1*")
    expect(page.get_by_role("status").filter(has_text="This is version 2.")).to_contain_text("masked in 1 row")
    page.locator("[data-finding=repeats]").get_by_role("button", name="Keep one of each").click()
    page.wait_for_url("**version=3*")
    expect(page.locator(".lineage > li")).to_have_count(3)
    expect(page.locator(".lineage > .current")).to_contain_text("From version 2: 1 repeated row left out. By mira,")
    page.get_by_role("link", name="Compare with version 1").click()
    expect(page.locator("[data-count=changed]")).to_have_text("1")
    expect(page.locator(".difference.come")).to_contain_text("Write to [email] about the kite.")
    page.select_option("#after", "3")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("[data-count=removed]")).to_have_text("1")
    expect(page.locator(".difference.gone").last).to_contain_text("The owl eats mice.")
    first = session.scalars(select(DatasetVersion).where(DatasetVersion.number == 1)).one()
    assert first.rows == 8


def test_without_script_the_page_waits_and_shows_the_same(
    browser: Browser, context: BrowserContext, served: str
) -> None:
    plain = browser.new_context(base_url=served, java_script_enabled=False)
    plain.add_cookies(context.cookies())  # type: ignore[arg-type]
    plain.set_default_timeout(60_000)
    page = plain.new_page()
    page.goto("/datasets/animals")
    page.fill("#max_length", "70")
    page.click("#lens noscript button")
    expect(page.locator("#verdict")).to_contain_text("2 rows are longer than 70 tokens.")
    expect(page.locator("#row-1 .stamp.inked")).to_have_text("<|im_end|>")
    page.get_by_role("link", name="Tokens", exact=True).click()
    expect(page.locator("#row-1 .box").first).to_be_visible()
    plain.close()
