"""The models page in a real browser: every click on it, under its real content policy."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy.orm import Session

from backend.core.models import Device, Role, Worker
from backend.core.settings import Settings
from tests.support.hub import COMMIT, Shelf, hub_in_place
from tests.support.trouble import signed_in
from tests.web.conftest import account

GIB = 1 << 30


@pytest.fixture
def shelf(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    shelf = Shelf({"owls/tiny-instruct": tiny_base, "owls/tiny-base": tiny_base})
    with hub_in_place(shelf, tmp_path / "hf", monkeypatch):
        yield shelf


@pytest.fixture
def page(
    browser: Browser, shelf: Shelf, here: Settings, served: str, session: Session, tiny_base: Path
) -> Iterator[Page]:  # fmt: skip
    """Somebody who is signed in, to a studio with one accelerator and two models. Nothing may break the content policy."""
    assert shelf.models
    for name in ("tiny", "other"):
        shutil.copytree(tiny_base, here.root / "models" / name)
    session.add(Worker(name="box", place="here"))
    session.flush()
    session.add(Device(worker="box", name="cuda:0", title="NVIDIA GeForce RTX 4090", memory_bytes=24 * GIB))
    session.commit()
    someone = account(session, Role.MEMBER)
    with signed_in(browser, served, someone.cookie) as context:
        yield context.new_page()


def test_a_model_an_accelerator_a_method_and_a_load_are_chosen_without_leaving_the_page(page: Page) -> None:
    page.goto("/models")
    page.evaluate("window.stays = true")
    expect(page.locator("#one-h")).to_have_text("other")
    page.get_by_role("link", name="tiny", exact=True).click()
    expect(page.locator("#one-h")).to_have_text("tiny")
    expect(page.locator("#here tr[aria-selected] th a")).to_be_focused()
    page.get_by_role("group", name="Fit on which accelerator").get_by_role("link", name="8", exact=True).click()
    expect(page.locator("#here caption")).to_contain_text("on 8 GiB of 8.0 GiB")
    page.locator("#one tbody").get_by_role("link", name="RTX 4090").click()
    expect(page.locator("#here caption")).to_contain_text("on RTX 4090 of 24.0 GiB")
    qlora = page.locator(".takes dd").first.inner_text()
    page.get_by_role("group", name="With which method").get_by_role("link", name="Full").click()
    expect(page.locator(".takes dd").first).not_to_have_text(qlora)
    before = page.locator("#here td .why").nth(1).inner_text()
    page.get_by_label("Rows at once").select_option("8")
    expect(page.locator("#here td .why").nth(1)).not_to_have_text(before)
    page.get_by_label("Longest row").select_option("512")
    expect(page).to_have_url(re.compile(r"on=rtx-4090-24-gib.*model=tiny.*method=full.*rows=8.*length=512"))
    assert page.evaluate("window.stays")
    page.reload()
    expect(page.locator("#one-h")).to_have_text("tiny")
    expect(page.get_by_label("Rows at once")).to_have_value("8")
    page.go_back()
    expect(page.get_by_label("Longest row")).to_have_value("2048")


def test_the_chosen_model_is_trained_with_one_click(page: Page) -> None:
    page.goto("/models?model=tiny")
    page.get_by_role("link", name="Train this").click()
    page.wait_for_url("**/runs/new?model=tiny")


def test_a_model_is_searched_downloaded_with_progress_and_ready_to_train(page: Page, shelf: Shelf) -> None:
    shelf.slow_seconds = 0.12
    page.goto("/models")
    page.get_by_label("Search the hub").fill("tiny")
    page.get_by_label("Kind", exact=True).select_option("base")
    page.get_by_role("search", name="Hub").get_by_role("button", name="Search").click()
    row = page.locator("#there tr", has_text="owls/tiny-base")
    expect(row).to_have_count(1)
    expect(page.locator("#there")).to_contain_text("1 left out by the filters")
    row.get_by_role("button", name="Download").click()
    progress = page.get_by_role("progressbar", name="Download of owls/tiny-base")
    expect(progress).to_be_visible()
    expect(progress).not_to_have_attribute("value", "0", timeout=15_000)
    arrived = page.locator("#here tr", has_text="owls/tiny-base").filter(has_text="On disk")
    expect(arrived).to_be_visible(timeout=20_000)
    expect(progress).to_have_count(0)
    arrived.get_by_role("link").click()
    expect(page.locator("#one")).to_contain_text(COMMIT[:10])
    asked = len(shelf.asked)
    page.wait_for_timeout(1500)
    assert len(shelf.asked) == asked
    expect(page.locator("#look-again")).to_have_count(0)


def test_a_download_is_called_off(page: Page, shelf: Shelf) -> None:
    shelf.slow_seconds = 1
    page.goto("/models?q=owls/tiny-instruct")
    page.get_by_role("button", name="Download").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("progressbar", name="Download of")).to_have_count(0)
    expect(page.locator("#here")).not_to_contain_text("owls/tiny-instruct")


def test_a_hub_that_is_away_is_told_and_the_models_here_stay(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    page.goto("/models")
    page.get_by_label("Search the hub").fill("tiny")
    page.keyboard.press("Enter")
    expect(page.locator("#hub-away")).to_contain_text("The hub cannot be reached.")
    expect(page.locator("#here")).to_contain_text("tiny")


def test_the_results_are_closed_and_the_page_works_without_scripts(browser: Browser, page: Page, served: str) -> None:
    page.goto("/models?q=tiny")
    page.locator("#there").get_by_role("link", name="Close").click()
    expect(page.locator("#there")).to_have_count(0)
    context = browser.new_context(base_url=served, java_script_enabled=False)
    context.add_cookies(page.context.cookies())  # type: ignore[arg-type]
    plain = context.new_page()
    plain.goto("/models")
    plain.get_by_role("link", name="tiny", exact=True).click()
    plain.get_by_label("Rows at once").select_option("4")
    plain.get_by_role("button", name="Work it out").click()
    expect(plain.locator("#one-h")).to_have_text("tiny")
    expect(plain.get_by_label("Rows at once")).to_have_value("4")
    context.close()
