"""What a page does to have a whole that was missed, where its answers are lost or cannot be drawn."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page

from tests.support.scripts import bundled

SCRIPT = """
import { Anew } from "./frontend/src/anew.ts";
const drawn = [];
let asked = 0;
const fetched = async () => {
  if (++asked <= window.losses) throw new Error("refused");
  return asked;
};
const draw = (whole) => {
  if (window.fails) throw new TypeError("cannot be drawn");
  drawn.push(whole);
};
const anew = new Anew(fetched, draw);
window.again = () => void anew.again();
window.stands = () => ({ asked, drawn, isAwaited: anew.isAwaited });
"""


@pytest.fixture
def page(browser: Browser) -> Page:
    page = browser.new_page()
    page.clock.install()
    page.add_script_tag(content=bundled(SCRIPT))
    return page


def test_a_lost_answer_is_asked_for_again_and_in_the_end_given_up(page: Page) -> None:
    page.evaluate("losses = 5, again()")
    assert page.evaluate("stands()") == {"asked": 1, "drawn": [], "isAwaited": True}
    with page.expect_console_message(lambda message: "refused" in message.text):
        page.clock.run_for(60_000)
    assert page.evaluate("stands()") == {"asked": 4, "drawn": [], "isAwaited": False}
    page.evaluate("again()")
    page.clock.run_for(60_000)
    assert page.evaluate("stands()") == {"asked": 6, "drawn": [6], "isAwaited": False}


def test_who_asks_meanwhile_need_not_wait_for_the_pause_to_end(page: Page) -> None:
    page.evaluate("losses = 1, again()")
    page.evaluate("again()")
    page.clock.run_for(60_000)
    assert page.evaluate("stands()") == {"asked": 2, "drawn": [2], "isAwaited": False}


def test_what_cannot_be_drawn_is_told_in_the_console(page: Page) -> None:
    with page.expect_event("pageerror", lambda error: "cannot be drawn" in str(error)):
        page.evaluate("fails = true, again()")
    assert page.evaluate("stands()") == {"asked": 1, "drawn": [], "isAwaited": False}
