"""The network between a person and the studio fails while a run trains and while a file is sent; nothing of it is lost."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.journeys.curves import assert_stored, painted, painted_points, points_reach, stored_steps
from tests.journeys.materials import Material, write_alpaca
from tests.support.proxy import Proxy, proxy_to
from tests.support.studios import Studio, first_admin
from tests.support.trouble import signed_in

pytestmark = pytest.mark.browser

SILENT_SECONDS, CUT_SECONDS = 8, 22
"""Half a minute without a network: first packets are lost, then the connection is."""
COMPLETE_SECONDS = 3
"""What it takes on a machine that does nothing else; a busy one is given four times as long, and the figure is printed."""
STEPS = 20_000
"""More than the run gets to before it is told to stop."""


@pytest.fixture(scope="module")
def cookie(studio: Studio) -> str:
    return str(first_admin(studio).cookies["studio"])


@pytest.fixture(scope="module")
def run(studio: Studio, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run that goes on until everything here is over."""
    material = Material(tiny_base, write_alpaca(tmp_path_factory.mktemp("rows") / "rows.json"), rows=60)
    with studio.client() as client:
        client.put_dataset("rows", material.file, on_bytes=lambda _count: None)
        recipe = material.recipe("rows", "long")
        # Steps are slow, so that the whole of a curve is painted, and not thinned, at the end.
        recipe["training"] |= {"max_steps": STEPS, "gradient_accumulation_steps": 48}
        recipe["evaluation"] |= {"eval_steps": 500, "sample_steps": 5000}
        recipe["saving"] |= {"save_steps": 5000}
        client.launch(recipe)
        yield "long"
        client.tell("long", "stop", keep=False)


@pytest.fixture
def proxy(studio: Studio) -> Iterator[Proxy]:
    with proxy_to(studio.address) as proxy:
        yield proxy


@pytest.fixture
def context(browser: Browser, proxy: Proxy, cookie: str) -> Iterator[BrowserContext]:
    """A browser on the far side of the network. What fails while that is down is told by the page, not by a test."""
    with signed_in(browser, proxy.address, cookie) as context:
        yield context


def complete_within(page: Page, studio: Studio, run: str, seconds: float) -> float:
    """How long it takes until the page shows every step that the database holds at this moment."""
    began, count = time.monotonic(), stored_steps(studio, run)
    points_reach(page, count, seconds=seconds)
    return time.monotonic() - began


def test_two_tabs_share_one_stream_and_both_are_complete(
    context: BrowserContext, proxy: Proxy, studio: Studio, run: str
) -> None:
    tabs = [context.new_page(), context.new_page()]
    for tab in tabs:
        tab.goto(f"/runs/{run}")
    for tab in tabs:
        points_reach(tab, 5)
    assert proxy.streams == 1
    tabs[0].close()  # it may be the one that reads for both
    points_reach(tabs[1], stored_steps(studio, run) + 5)
    assert proxy.streams == 1
    assert_stored(painted(tabs[1]), studio, run, is_whole=False)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_page_is_complete_three_seconds_after_the_network_is_back(
    context: BrowserContext, proxy: Proxy, studio: Studio, run: str, language: str
) -> None:
    is_long = language == "en"  # half a minute is waited for once
    page = context.new_page()
    page.goto(f"/runs/{run}?lang={language}")
    points_reach(page, 5)
    before = painted_points(page)
    proxy.fall_silent()
    time.sleep(SILENT_SECONDS if is_long else 1)
    proxy.cut()
    away = page.get_by_role("alert")
    expect(away).to_be_visible(timeout=10_000)
    expect(away).to_contain_text("answer" if language == "en" else "没有回应")
    time.sleep(CUT_SECONDS if is_long else 3)
    proxy.restore()
    print(f"complete {complete_within(page, studio, run, COMPLETE_SECONDS * 4):.1f} s after the network was back")
    assert painted_points(page) > before, "the run went on meanwhile"
    expect(away).to_be_hidden(timeout=10_000)
    assert_stored(painted(page), studio, run, is_whole=False)


def test_an_upload_that_is_cut_goes_on_by_itself_and_nothing_is_sent_twice(
    context: BrowserContext, proxy: Proxy, studio: Studio, tmp_path: Path
) -> None:
    rows = tmp_path / "answers.jsonl"
    row = {"instruction": "What does the owl eat?", "output": "The owl eats mice. " * 400}
    rows.write_text((json.dumps(row) + "\n") * 3000)
    page = context.new_page()
    page.goto("/datasets")
    page.set_input_files("input[data-files]", rows)
    page.locator("[data-send]").click()
    proxy.cut_after(10 << 20)
    line = page.locator("[data-arrival]")
    expect(line).to_have_attribute("data-state", "lost", timeout=30_000)
    sent_before = proxy.sent_bytes
    proxy.restore()
    page.wait_for_url("**/datasets/answers", timeout=60_000)
    size = rows.stat().st_size
    assert sent_before > 8 << 20
    assert proxy.sent_bytes < size + (20 << 20), "what had arrived was not sent again"
    with studio.client() as client:
        (version,) = client.dataset("answers").history
    assert (version.rows, version.source_sha256) == (3000, hashlib.sha256(rows.read_bytes()).hexdigest())
