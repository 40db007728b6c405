"""The same table where a person meets it: one browser, under the pages' own content policy, with no dialog ever opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect

from backend.core.models import Role
from tests.hostile.making import GOOD
from tests.hostile.rows import MODELS, NAMES, SETTINGS, UPLOADS, YAMLS, proves, titled
from tests.hostile.studio import IN_A_BROWSER, SPECIAL, Cost, Studio, recipe, taken, with_a_small_accelerator
from tests.security.test_markup import BREACHES
from tests.support.trouble import settle, signed_in

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
PATIENCE_MS = 120_000


@pytest.fixture
def page(browser: Browser, studio: Studio) -> Iterator[Page]:
    """Somebody who is signed in. A dialog that a script of theirs opened would fail the test, as any breach of the policy."""
    with looking(browser, studio) as page:
        yield page


@contextmanager
def looking(browser: Browser, studio: Studio) -> Iterator[Page]:
    who = studio.web.sign_in("looker", Role.ADMIN)
    opened: list[str] = []

    def dismissed(dialog: Dialog) -> None:
        opened.append(dialog.message)
        dialog.dismiss()

    with signed_in(browser, studio.web.address, who.cookie) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("dialog", dismissed)
        yield page
    assert opened == []


@pytest.mark.parametrize("told", BREACHES)
def test_a_script_that_ran_would_fail_each_of_these_tests(browser: Browser, studio: Studio, told: str) -> None:
    with pytest.raises(AssertionError), looking(browser, studio) as page:
        BREACHES[told](page)


def refusal_of(page: Page, file: Path) -> str:
    """What the page says of this file, once it was looked at and, where that is not refused already, sent."""
    page.set_input_files("[data-files]", file)
    line = page.locator("[data-arrival]").last
    alert, send = line.locator("[role=alert]"), line.locator("[data-send]")
    expect(alert.or_(send).locator("visible=true").first).to_be_visible(timeout=PATIENCE_MS)
    if send.is_visible() and send.is_enabled():
        send.click()
        expect(alert).to_be_visible(timeout=PATIENCE_MS)
    return line.inner_text()


def test_each_file_is_refused_on_the_page_in_the_same_words(page: Page, studio: Studio, tmp_path: Path) -> None:
    """The page sends small ones in one request, and large ones in pieces."""
    told = {}
    page.goto("/datasets")
    for upload in UPLOADS:
        file = tmp_path / upload.name
        file.write_bytes(upload.content())
        with studio.measured(f"{upload}{IN_A_BROWSER}"):
            refusal = refusal_of(page, file)
        told[str(upload)] = (refusal, upload.says)
        page.locator("[data-arrival]").last.locator("[data-cancel]").click()
        expect(page.locator("[data-arrival]")).to_have_count(0)
    wrong = {row: words for row, (words, says) in told.items() if not all(_is_in(each, words) for each in says)}
    assert wrong == {}


def _is_in(words: str, text: str) -> bool:
    """A page begins places with a capital, and breaks lines."""
    return words.lower() in " ".join(text.split()).lower()


def test_each_model_folder_says_on_the_page_why_it_cannot_be_used(page: Page, studio: Studio, tiny_base: Path) -> None:
    for model in MODELS:
        if not (studio.models / model.name).exists():
            model.spoil(Path(shutil.copytree(tiny_base, studio.models / model.name)))
    page.goto("/models")
    for model in MODELS:
        with studio.measured(f"{model}{IN_A_BROWSER}"):
            page.locator("#here").get_by_role("link", name=model.name, exact=True).click()
            expect(page.locator("#one-h")).to_have_text(model.name)
            expect(page.locator("#here tr[aria-selected]")).to_contain_text("cannot be used")
            for words in model.says:
                expect(page.locator("#one")).to_contain_text(words)


def test_settings_are_refused_where_they_stand_in_the_yaml(page: Page, studio: Studio) -> None:
    page.goto("/runs/new?view=yaml")
    bad = page.locator("#preflight")
    for setting in SETTINGS:
        write_innocently(page, setting.says)
        with studio.measured(f"{setting}{IN_A_BROWSER}"):
            page.locator("#yaml").fill(json.dumps(setting.recipe()))
            for words in setting.says:
                expect(bad).to_contain_text(words)
    for row, text, words in YAMLS:
        write_innocently(page, (words,))
        with studio.measured(f"{titled(row, text)}{IN_A_BROWSER}"):
            page.locator("#yaml").fill(text)
            expect(bad).to_contain_text(words)


INNOCENTS = count(1)


def write_innocently(page: Page, words: Iterable[str]) -> None:
    """Something short of a recipe, each time another, until the page has answered it and none of these words stands there:
    else those of what was written before would be taken for the answer."""
    with page.expect_response(lambda answer: "/runs/preflight" in answer.url):
        page.locator("#yaml").fill(f"model: tiny-qwen3 # {next(INNOCENTS)}")
    for each in words:
        expect(page.locator("#preflight")).not_to_contain_text(each)
    settle(page)


def test_what_rows_and_memory_forbid_stands_beside_the_recipe(page: Page, studio: Studio) -> None:
    """What only the rows, the tokenizer or the accelerator tell is there once they were looked at."""
    taken(studio, "long", json.dumps({"instruction": "Q " * 300, "output": "A " * 300}) + "\n")
    taken(studio, "control", json.dumps({"instruction": f"Q? {SPECIAL}", "output": "A."}) + "\n")
    page.goto("/runs/new?view=yaml")
    with_a_small_accelerator(studio)
    for row, written, words in (
        (70, recipe("animals") | {"method": "full"}, "too much for NVIDIA Tiny"),
        (37, recipe("long", max_length=16), "1 of 1 rows are longer than 16 tokens"),
        (37, recipe("long", max_length=16, truncation="drop"), "none of the 1 rows holds a token to learn"),
        (38, recipe("control"), "special tokens spelled out"),
        (
            72,
            recipe("animals") | {"evaluation": {"prompts": ["owl " * 1900]}},
            "tokens long, and the model's context is 256",
        ),
    ):
        write_innocently(page, (words,))
        with studio.measured(f"{row} {words}{IN_A_BROWSER}"):
            page.locator("#yaml").fill(json.dumps(written))
            expect(page.locator("#preflight")).to_contain_text(words)


TYPED = {what: (row, name) for what, (row, name) in NAMES.items() if not {"\0", "\n"} & {*name} and len(name) <= 80}
"""What a field holds."""


def test_a_hostile_name_is_refused_beside_its_field(page: Page, studio: Studio) -> None:
    alert = page.locator("main [role=alert]")
    for what, (row, name) in TYPED.items():
        page.goto("/settings/tokens")
        expect(alert, "the words of the name before are gone").to_have_count(0)
        page.fill("#token-name", name)
        with studio.measured(f"{row} {what}{IN_A_BROWSER}"):
            page.locator("form:has(#token-name) button.primary").click()
            expect(alert, what).to_contain_text("letters, digits, spaces")


def test_a_hostile_name_of_a_data_set_is_refused_beside_its_file(page: Page, studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "good.jsonl"
    file.write_text(GOOD)
    page.goto("/datasets")
    line = page.locator("[data-arrival]")
    for what, (row, name) in TYPED.items():
        page.set_input_files("[data-files]", file)
        line.locator("[data-as]").fill(name)
        with studio.measured(f"{row} {what}, of a data set{IN_A_BROWSER}"):
            line.locator("[data-send]").click()
            expect(line.get_by_role("alert"), what).to_contain_text("That is an invalid name for a data set.")
        line.locator("[data-cancel]").click()
        expect(line).to_have_count(0)


@proves(40)
def test_a_script_in_a_cell_is_shown_as_text(page: Page, studio: Studio, taught: Cost) -> None:
    row = {"instruction": SCRIPT, "output": SCRIPT, "input": "javascript:alert(3)"}
    content = json.dumps(row) + "\n"
    with studio.metered("40 a script in a cell arrives", innocent=taught):
        taken(studio, "scripts", content)
    for view in ("", "?view=raw", "?model=tiny-qwen3&view=tokens&wait=1"):
        innocent = studio.innocent(f"rows{view}", lambda view=view: studio.client.get(f"/datasets/animals{view}"))  # type: ignore[misc]
        with studio.metered(f"40 a script in a cell{view}{IN_A_BROWSER}", innocent=innocent):
            page.goto(f"/datasets/scripts{view}")
            expect(page.locator("main")).to_contain_text("alert(1)")
    page.goto("/datasets")
    with studio.measured(f"40 a script in a file{IN_A_BROWSER}"):
        page.set_input_files("[data-files]", {"name": "a.jsonl", "mimeType": "", "buffer": content.encode()})
        expect(page.locator("[data-arrival]").last).to_contain_text("alert(1)")
