"""Home, the list of runs, the search and the shell in a real browser, by keyboard and by pointer."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core import people, recipes, runs
from backend.core.models import Role, Run
from backend.core.settings import Settings
from backend.web.app import create_app
from tests.support.showcase import Shipper
from tests.web.conftest import RECIPE, account, queued_run


@contextmanager
def serving(here: Settings, port: int = 0) -> Iterator[int]:
    """The application behind a server that can be ended and started again at the same port."""
    config = uvicorn.Config(create_app(here), port=port, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


def named(session: Session, *names: str) -> None:
    for name in names:
        queued_run(session, name)


# ---- search ---------------------------------------------------------------------------------------------------------


def test_the_search_is_driven_by_keyboard(page: Page, session: Session) -> None:
    named(session, "owl small", "owl large", "finch")
    recipes.save(session, "owl style", RECIPE, by=None)
    session.commit()
    page.goto("/help")
    page.keyboard.press("/")
    field = page.locator("#search")
    expect(field).to_be_focused()
    page.keyboard.type("OWL")
    options = page.locator("#found [role=option]")
    expect(options).to_have_count(4)
    expect(field).to_have_attribute("aria-expanded", "true")
    expect(options.nth(0)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowUp")
    expect(field).to_have_attribute("aria-activedescendant", "found-3")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    expect(options.nth(1)).to_contain_text("owl small")
    page.keyboard.press("Escape")
    expect(page.locator("#found")).to_be_hidden()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#found")).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/owl%20small")


def test_enter_opens_what_was_typed_and_not_what_was_found_before(page: Page, session: Session) -> None:
    named(session, "alpha", "alps")
    page.goto("/help")
    field, options = page.locator("#search"), page.locator("#found [role=option]")
    field.focus()
    page.keyboard.type("al")
    expect(options).to_have_count(3)
    field.evaluate(
        "(field) => field.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true }))"
    )
    page.route("**/api/v1/search?q=alpha", lambda _: None)  # on its way for long
    page.keyboard.type("pha")
    expect(page).to_have_url(re.compile("/help$"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=alpha")


def test_what_a_search_finds_is_a_page_too(page: Page, session: Session) -> None:
    named(session, "owl small", "finch")
    page.goto("/")
    page.locator("#search").fill("owl")
    page.locator("#found").get_by_text("Everything with “owl”").click()
    page.wait_for_url("**/search?q=owl")
    expect(page.locator("main .list li")).to_have_count(1)
    page.locator("#search").fill("<i>zebra")
    expect(page.locator("#found li")).to_have_text("Nothing has “<i>zebra” in its name.")
    page.locator("#search").press("Enter")
    page.wait_for_url("**/search?q=%3Ci%3Ezebra")
    expect(page.locator("main")).to_contain_text("Nothing has “<i>zebra” in its name.")


# ---- the shell ------------------------------------------------------------------------------------------------------


def test_a_banner_tells_that_the_studio_is_away_and_that_it_is_back(
    browser: Browser,
    here: Settings,
    session: Session,
) -> None:
    queued_run(session)
    with serving(here) as port:
        address = f"http://127.0.0.1:{port}"
        opened = browser.new_context(base_url=address)
        opened.add_cookies([{"name": "studio", "value": account(session, Role.ADMIN).cookie, "url": address}])
        live, quiet = opened.new_page(), opened.new_page()
        live.goto("/runs")
        quiet.goto("/help")
        expect(live.locator("#away")).to_be_hidden()
        live.wait_for_timeout(300)  # the stream opens
    expect(live.locator("#away")).to_contain_text("The studio does not answer.", timeout=10_000)
    expect(live.locator("#away")).to_contain_text("for ")
    expect(quiet.locator("#away")).to_be_hidden()
    quiet.locator("#search").fill("owl")  # the first request that fails
    expect(quiet.locator("#away")).to_contain_text("The studio does not answer.", timeout=10_000)
    queued_run(session, "made meanwhile")
    with serving(here, port):
        expect(live.locator("#away")).to_contain_text("answers again", timeout=10_000)
        expect(quiet.locator("#away")).to_contain_text("answers again", timeout=10_000)
        expect(live.get_by_role("link", name="made meanwhile")).to_be_visible(timeout=10_000)
        expect(live.locator("#away")).to_be_hidden(timeout=10_000)
        opened.close()


def test_who_is_signed_out_meanwhile_is_led_back_to_the_same_page(
    context: BrowserContext,
    page: Page,
    session: Session,
) -> None:
    queued_run(session)
    page.goto("/runs?state=queued")
    cookie = next(cookie for cookie in context.cookies() if cookie.get("name") == "studio")
    if identity := people.find_session(session, cookie["value"]):
        people.sign_out(session, identity)
    session.commit()
    page.locator("#search").fill("first")
    expect(page.locator("#away")).to_contain_text("You are signed out")
    expect(page.locator("[data-sign-in]")).to_have_attribute("href", "/signin?next=%2Fruns%3Fstate%3Dqueued")


def test_keys_lead_to_every_place_and_through_the_rows(page: Page, session: Session) -> None:
    named(session, "older", "newer")
    page.goto("/runs")
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_contain_text("Compare the selected runs")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.locator("tbody a").nth(0)).to_be_focused()
    page.keyboard.press("j")
    expect(page.locator("tbody a").nth(1)).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("x")
    expect(page.locator("[data-selected]")).to_have_text("1 selected")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/older")
    for key, place in {"s": "settings", "c": "compare", "m": "models", "d": "datasets", "r": "runs", "h": ""}.items():
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.wait_for_url(re.compile(rf"//[^/]+/{place}(/.*)?$"))


# ---- home -----------------------------------------------------------------------------------------------------------


def test_home_moves_by_itself(page: Page, session: Session) -> None:
    page.goto("/")
    expect(page.locator("h1")).to_have_text("Teach a model from your own rows")
    queued_run(session)
    expect(page.locator("h1")).to_have_text("One run waits", timeout=10_000)
    shipper = Shipper(session)
    shipper.train([1, 2])
    expect(page.locator("h1")).to_have_text("One run is training", timeout=10_000)
    expect(page.locator("article [data-cell=loss]")).to_have_text("0.5", timeout=10_000)
    shipper.train([3, 4])
    expect(page.locator("article [data-cell=loss]")).to_have_text("0.25", timeout=10_000)
    expect(page.locator("article .spark .s1")).to_have_count(1, timeout=10_000)
    queued_run(session, "second")
    expect(page.locator("h1")).to_have_text("One run is training, one waits", timeout=10_000)


def test_what_waits_can_be_cancelled_and_brought_back(page: Page, session: Session) -> None:
    named(session, "first", "second")
    page.goto("/")
    page.locator("li", has_text="first").get_by_role("button", name="Cancel").click()
    expect(page.locator(".banner")).to_contain_text("Discarded: first.")
    expect(page.locator("h1")).to_have_text("One run waits")
    page.locator(".banner").get_by_role("button", name="Undo").click()
    expect(page.locator(".banner")).to_contain_text("Brought back: first.")
    expect(page.locator("h1")).to_have_text("Two runs wait")


# ---- the list of runs -----------------------------------------------------------------------------------------------


def names(page: Page) -> list[str]:
    return page.locator("tbody th a").all_inner_texts()


def test_the_list_is_narrowed_sorted_and_paged_by_its_address(page: Page, session: Session) -> None:
    owner = account(session, Role.MEMBER, "bob")
    named(session, "beta", "alpha")
    queued_run(session, "gamma", owner)
    runs.pause(session, runs.find(session, "beta").id)
    session.commit()
    page.goto("/runs")
    assert names(page) == ["gamma", "alpha", "beta"]
    page.get_by_role("link", name="Name", exact=True).click()
    page.wait_for_url("**/runs?sort=name")
    assert names(page) == ["alpha", "beta", "gamma"]
    page.locator("#by-owner").select_option("bob")
    page.wait_for_url("**owner=bob")
    assert names(page) == ["gamma"]
    expect(page).to_have_url(page.url)
    page.get_by_role("link", name="All runs").click()
    page.get_by_role("link", name="Paused 1").click()
    page.wait_for_url("**/runs?state=paused")
    assert names(page) == ["beta"]
    page.locator("#by-name").fill("nothing like it")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_contain_text("No run has “nothing like it” in its name.")


def test_several_runs_are_compared_or_stopped_with_one_question(page: Page, session: Session) -> None:
    named(session, "one", "two", "three")
    page.goto("/runs")
    expect(page.locator(".action-bar")).to_be_hidden()
    page.get_by_label("Select one").check()
    page.get_by_label("Select two").check()
    expect(page.locator("[data-compare]")).to_have_text("Compare 2 runs")
    queued_run(session, "four")
    expect(page.get_by_label("Select four")).to_be_visible(timeout=10_000)
    expect(page.get_by_label("Select one")).to_be_checked()
    expect(page.locator("[data-selected]")).to_have_text("2 selected")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("#ask-several").get_by_role("button", name="Discard").click()
    expect(page.locator(".banner")).to_contain_text("Discarded: two, one.")
    assert {run.name for run in session.scalars(select(Run).where(Run.state == "stopped"))} == {"one", "two"}
    session.rollback()
    page.locator(".banner").get_by_role("button", name="Undo").click()
    expect(page.locator(".banner")).to_contain_text("Brought back: two, one.")
    page.get_by_label("Select one").check()
    page.get_by_label("Select three").check()
    page.keyboard.press("c")
    page.wait_for_url("**/compare?run=three&run=one")


def test_the_longest_name_widens_no_page(page: Page, session: Session) -> None:
    name = "w" * 80
    named(session, name, "finch")
    page.set_viewport_size({"width": 390, "height": 844})
    for path in ("/", "/runs", f"/runs/{name}", f"/compare?run={name}&run=finch", "/search?q=w"):
        page.goto(path)
        expect(page.get_by_text(name).first).to_be_attached()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390, path
