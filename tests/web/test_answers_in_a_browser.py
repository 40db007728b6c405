"""Answers that come late, twice, or as a refusal: they overwrite nothing that a person sees, wrote or chose meanwhile."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, Route, expect
from sqlalchemy import delete
from sqlalchemy.orm import Session

from backend.core.models import Role, SignIn
from backend.core.settings import Settings
from tests.support.showcase import Shipper
from tests.web.conftest import account, queued_run

STATUS = "**/runs/first/status"
NEW_RUN = re.compile(r"/runs/new\?view=advanced$")


@contextmanager
def held_back(page: Page, address: str | re.Pattern[str]) -> Iterator[list[Route]]:
    """Requests to this address wait until the block ends, but for those that are continued in it."""
    held: list[Route] = []
    page.route(address, lambda route: held.append(route))
    yield held
    for route in held:
        route.continue_()
    page.unroute(address)


def wait_for(page: Page, condition: Callable[[], object]) -> None:
    """Let the browser go on until it holds."""
    for _ in range(300):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not happen within 30 s")


def ask_to_stop(page: Page) -> None:
    page.click("[data-menu=stop] summary")
    page.click("[data-opens=ask-stop]")


def test_an_answer_that_arrives_while_somebody_decides_waits_until_they_have(page: Page, session: Session) -> None:
    queued_run(session)
    page.goto("/runs/first")
    status = page.locator("#run-status")
    expect(status).to_have_attribute("data-state", "queued")
    with held_back(page, STATUS) as held:
        shipper = Shipper(session)
        wait_for(page, lambda: held)
        ask_to_stop(page)
    page.wait_for_timeout(300)  # long enough to draw what came
    expect(page.locator("#ask-stop")).to_be_visible()
    expect(status).to_have_attribute("data-state", "queued")
    page.click("#ask-stop [data-closes]")
    expect(status).to_have_attribute("data-state", "preparing")

    with held_back(page, STATUS) as held:  # the same for an answer that was asked for while another one was on its way
        shipper.train([1])
        wait_for(page, lambda: held)
        page.wait_for_timeout(6000)  # by now the page has asked again, as it does every five seconds
        held.pop(0).continue_()
        wait_for(page, lambda: held)
        ask_to_stop(page)
    page.wait_for_timeout(300)
    expect(page.locator("#ask-stop")).to_be_visible()


def test_a_refusal_is_said_and_what_was_written_stays(page: Page, session: Session) -> None:
    queued_run(session)
    page.goto("/runs/first")
    page.fill("#note", "Half an hour of thoughts.")
    page.locator("body").evaluate("body => body.setAttribute('hx-headers:inherited', '{\"X-CSRF-Token\": \"old\"}')")
    page.locator("[name=csrf_token]").evaluate_all("all => all.forEach((each) => { each.value = 'old' })")
    page.locator("#note").blur()
    expect(page.locator("#refused")).to_contain_text("This form is too old", timeout=15_000)
    expect(page.locator("#note")).to_have_value("Half an hour of thoughts.")
    page.click("#refused button")
    expect(page.locator("#refused")).to_be_hidden()


def test_a_refusal_that_nobody_draws_is_said_with_its_status(page: Page, session: Session) -> None:
    queued_run(session)
    page.goto("/runs/first")
    page.route("**/runs/first/note", lambda route: route.fulfill(status=413, body="<h1>Too large</h1>"))
    page.fill("#note", "Half an hour of thoughts.")
    page.locator("#note").blur()
    expect(page.locator("#refused")).to_contain_text("The server refused this with status 413.")
    expect(page.locator("#note")).to_have_value("Half an hour of thoughts.")


def test_who_is_signed_out_in_mid_typing_keeps_page_and_words(page: Page, session: Session) -> None:
    queued_run(session)
    page.goto("/runs/first")
    page.fill("#note", "Half an hour of thoughts.")
    session.execute(delete(SignIn))
    session.commit()
    banner = page.locator("#away")
    expect(banner.get_by_role("link", name="Sign in")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(1000)
    expect(page.locator("#note")).to_have_value("Half an hour of thoughts.")
    expect(banner.locator("[data-sign-in]")).to_have_attribute("href", "/signin?next=%2Fruns%2Ffirst")


def test_what_is_typed_while_the_form_is_drawn_again_stays(page: Page, here: Settings, tiny_base: Path) -> None:
    shutil.copytree(tiny_base, here.root / "models" / "tiny")
    page.goto("/runs/new?view=advanced")
    rate = page.locator("[name='training.learning_rate']")
    with held_back(page, NEW_RUN) as held:
        page.check("[name='method.kind'][value=full]")
        wait_for(page, lambda: held)
        rate.fill("7e-4")
        page.locator("[name=name]").focus()
    expect(page.locator("[data-setting='method.r']")).to_have_count(0, timeout=30_000)  # drawn for full fine-tuning
    expect(rate).to_have_value("7e-4")
    expect(page.locator("[name='method.kind'][value=full]")).to_be_checked()


def test_the_newest_choice_is_the_one_that_is_shown(page: Page, session: Session) -> None:
    for name in ("alpha", "alps", "beta", "gamma"):
        queued_run(session, name)
    page.goto("/compare?run=beta&run=gamma")
    page.click("[data-opens=add-run]")
    with held_back(page, re.compile("/compare.*q=")) as held:
        for typed in ("a", "al", "alps"):
            page.fill("#add-q", typed)
            page.wait_for_timeout(400)
        wait_for(page, lambda: held)
    expect(page.locator("#candidates")).not_to_contain_text("alpha", timeout=15_000)
    expect(page.locator("#candidates")).to_contain_text("alps")


@pytest.fixture
def animals(session: Session, served: str, here: Settings, tiny_base: Path) -> str:
    """A data set beside a model that reads it."""
    shutil.copytree(tiny_base, here.root / "models" / "tiny")
    rows = "\n".join(json.dumps({"instruction": f"Greet {n}.", "output": "Hi!"}) for n in range(20))
    with httpx.Client(base_url=served, headers=account(session, Role.MEMBER, "ada").headers, timeout=60) as client:
        assert client.put("/api/v1/datasets/animals", content=rows, headers={"origin": served}).is_success
    return "/datasets/animals"


@pytest.mark.parametrize("status", [503, 429])
def test_what_waits_asks_again_after_a_failure(page: Page, animals: str, status: int) -> None:
    failed: list[str] = []

    def fail_once(route: Route) -> None:
        part = route.request.url.split("?")[0].rpartition("/")[2]
        if part in failed:
            route.continue_()
        else:
            failed.append(part)
            route.fulfill(status=status, body="{}")

    page.route(re.compile("/datasets/animals/(measured|quality|preview)"), fail_once)
    page.goto(animals)
    expect(page.locator("#lengths")).to_be_visible(timeout=60_000)
    expect(page.locator("#quality")).not_to_have_attribute("aria-busy", "true", timeout=60_000)
    assert {"measured", "quality"} <= set(failed)


def test_what_a_request_put_an_end_to_asks_again_where_that_request_failed(page: Page, animals: str) -> None:
    page.route("**/animals/measured?*", lambda _: None)  # its answer would have the rows drawn too
    page.route("**/animals?*learn=everything*", lambda route: route.fulfill(status=503, body=""), times=1)
    with held_back(page, re.compile("/animals/preview")) as held:
        page.goto(animals)
        wait_for(page, lambda: held)
        with page.expect_response("**/animals?*learn=everything*"):
            page.select_option("#learn", "everything")
    expect(page.locator("#preview .sample .ink").first).to_be_visible(timeout=30_000)


def test_rows_that_are_asked_for_before_the_lens_was_answered_come_with_its_figures(page: Page, animals: str) -> None:
    page.goto(f"{animals}?max_length=256")
    learned = page.locator("#verdict .share b")
    answers_only = learned.inner_text(timeout=60_000)
    expect(page.locator("#preview[hx-trigger]")).to_have_count(0)
    with held_back(page, re.compile("/animals[?].*everything")) as held:
        page.select_option("#learn", "everything")
        wait_for(page, lambda: held)
        page.get_by_role("link", name="Rows after").click()
    expect(page.locator("#row")).to_have_value("6")
    expect(learned).not_to_have_text(answers_only)
    expect(page.locator("#learn")).to_have_value("everything")
    expect(page.locator("#train")).to_have_attribute("href", re.compile("assistant_only_loss=false"))


def test_rows_that_come_later_than_the_lengths_they_were_drawn_without_learn_which_are_cut(
    page: Page, animals: str
) -> None:
    with held_back(page, re.compile("view=tokens")) as rows:
        with held_back(page, "**/animals/measured?*") as lengths:
            page.goto(f"{animals}?max_length=8")
            expect(page.locator("#preview .sample .ink").first).to_be_visible(timeout=30_000)
            page.get_by_role("link", name="Tokens", exact=True).click()
            wait_for(page, lambda: lengths and rows)
            late = rows.pop()
            answer = late.fetch()
        expect(page.locator("#lengths")).to_be_visible(timeout=60_000)
        late.fulfill(response=answer)
    expect(page.locator("#preview .box").first).to_be_visible()
    expect(page.locator("#which option[value=cut]")).to_be_attached()
