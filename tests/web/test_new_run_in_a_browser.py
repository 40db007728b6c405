"""The form of a new run as people use it: every click in a real browser, under the pages' real content policy."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core import people, recipes
from backend.core.models import Role, Run
from backend.core.settings import Settings
from tests.support.trouble import signed_in
from tests.web.conftest import account

ROWS = [{"instruction": f"Greet {n}.", "output": "Hi! " * (1 + n % 60)} for n in range(60)]
LONG = {"instruction": "Go on.", "output": "again " * 400}


@pytest.fixture
def context(
    browser: Browser, served: str, session: Session, here: Settings, tiny_base: Path
) -> Iterator[BrowserContext]:
    """A member's browser, in a studio with one model, a data set `a`, and one `long` with a row that does not fit."""
    shutil.copytree(tiny_base, here.root / "models" / "tiny")
    member = account(session, Role.MEMBER)
    with httpx.Client(base_url=served, headers={**member.headers, "origin": served}, timeout=60) as client:
        for name, rows in (("a", ROWS), ("long", [*ROWS, LONG])):
            body = "\n".join(map(json.dumps, rows)).encode()
            assert client.put(f"/api/v1/datasets/{name}", content=body).status_code == 201
    with signed_in(browser, served, member.cookie) as context:
        yield context


def field(page: Page, name: str):  # type: ignore[no-untyped-def]
    return page.locator(f"#fields [name='{name}']")


def says(page: Page, words: str) -> None:
    expect(page.locator("#preflight-title")).to_have_text(re.compile(words), timeout=60_000)


def test_views_keep_what_was_set_and_stand_in_the_address(page: Page) -> None:
    page.goto("/runs/new?dataset=a")
    field(page, "training.num_train_epochs").fill("3")
    page.get_by_role("button", name="Advanced").click()
    page.wait_for_url("**/runs/new?view=advanced")
    expect(field(page, "training.num_train_epochs")).to_have_value("3")
    field(page, "method.r").fill("8")
    page.get_by_role("button", name="YAML", exact=True).click()
    page.wait_for_url("**/runs/new?view=yaml")
    text = page.locator("#yaml")
    expect(text).to_have_value(re.compile(r"r: 8 +# recommended 16"))
    text.fill("# mine\n" + text.input_value().replace("r: 8 ", "r: 4 "))
    page.get_by_role("button", name="Write out all").wait_for()
    page.get_by_role("button", name="Simple").click()
    page.wait_for_url("**/runs/new?view=simple")
    expect(page.locator("#set-count")).to_contain_text("2 of")
    page.get_by_role("button", name="YAML", exact=True).click()
    expect(text).to_have_value(re.compile("^# mine\n"))
    page.get_by_role("button", name="Write out all").click()
    expect(text).to_have_value(re.compile("save_total_limit: 2"))
    page.reload()
    expect(page.locator("#yaml")).to_have_value(re.compile("save_total_limit: 2"), timeout=15_000)


def test_typing_inks_counts_and_foretells_and_one_click_goes_back(page: Page) -> None:
    page.goto("/runs/new?dataset=a&view=advanced&truncation=drop")
    says(page, "Ready to start")
    expect(page.locator("#first-row .stamp.inked")).to_have_text("<|im_end|>", timeout=30_000)
    row = page.locator("[data-setting='method.r']")
    field(page, "method.r").press_sequentially("")
    field(page, "method.r").fill("128")
    expect(row).to_have_class(re.compile("changed"))
    expect(page.locator("#preflight")).to_contain_text("Rank 128 learns little more")
    expect(page.locator("#badges-method")).to_have_text("1 set by you")
    expect(field(page, "method.r")).to_be_focused()
    page.get_by_role("button", name="Show only these").click()
    expect(page.locator("[data-setting]:visible")).to_have_count(2)  # the truncation that the address set is the other
    page.get_by_role("button", name="Show only these").click()
    row.get_by_role("button", name="Use 16").click()
    expect(row).not_to_have_class(re.compile("changed"))
    expect(page.locator("#preflight")).not_to_contain_text("Rank 128")
    page.locator("[data-finds]").fill("optimizer")
    expect(field(page, "training.optim")).to_be_visible()
    expect(field(page, "method.r")).to_be_hidden()
    page.locator("[data-finds]").fill("")
    page.get_by_role("button", name="Reset all").click()
    expect(page.locator("#set-count")).to_contain_text("0 of")
    expect(field(page, "data.truncation")).to_have_value("refuse")


def test_another_method_brings_its_own_settings(page: Page) -> None:
    page.goto("/runs/new?dataset=a&view=advanced")
    expect(field(page, "training.learning_rate")).to_have_value("2e-4")
    page.check("[name='method.kind'][value=full]")
    expect(field(page, "method.r")).to_have_count(0)
    expect(field(page, "training.learning_rate")).to_have_value("1e-5")
    page.check("[name='method.kind'][value=lora]")
    boxes = page.locator("[data-names] [type=checkbox]")
    expect(boxes.first).to_be_checked()
    first = boxes.first.input_value()
    boxes.first.uncheck()
    expect(field(page, "method.target_modules")).not_to_have_value(re.compile(rf"\b{first}\b|all-linear"))
    boxes.first.check()
    expect(field(page, "method.target_modules")).to_have_value("all-linear")


def test_a_stop_is_remedied_by_its_button_and_two_clicks_start_one_run(page: Page, session: Session) -> None:
    page.goto("/runs/new?dataset=long")
    says(page, "One thing stops this run")
    start = page.locator("#preflight [data-start]")
    expect(start).to_be_disabled()
    page.get_by_role("button", name="Leave them out").click()
    says(page, "Ready to start")
    expect(field(page, "data.truncation")).to_have_value("drop")
    start.dblclick()
    page.wait_for_url(re.compile(r"/runs/tiny"), timeout=30_000)
    assert [run.recipe["data"]["truncation"] for run in session.scalars(select(Run))] == ["drop"]
    page.go_back()
    expect(page.locator("#new-run")).to_be_visible()


def test_what_was_filled_in_is_kept_until_its_run_is_there(page: Page) -> None:
    def refuse(route: Route) -> None:
        posted = route.request.method == "POST"
        route.fulfill(status=503, body="Service Unavailable") if posted else route.continue_()

    page.goto("/runs/new?dataset=a&truncation=drop")
    says(page, "Ready to start")
    field(page, "name").fill("my run")
    page.route(re.compile(r"/runs$"), refuse)
    page.locator("#preflight [data-start]").click()
    expect(page.locator("body")).to_have_text("Service Unavailable")
    page.route("**/runs/new?view=simple", refuse, times=1)
    with page.expect_response("**/runs/new?view=simple") as failed:
        page.go_back()
    assert failed.value.status == 503
    expect(field(page, "name")).to_have_value("my run", timeout=15_000)  # brought back when the studio answers again
    page.unroute(re.compile(r"/runs$"))
    says(page, "Ready to start")
    page.locator("#preflight [data-start]").click()
    page.wait_for_url("**/runs/my%20run", timeout=30_000)
    page.go_back()
    expect(field(page, "name")).to_have_value("")


@pytest.mark.parametrize("status", [503, 413])
def test_a_draft_that_comes_late_is_offered_and_what_was_filled_in_since_is_kept(page: Page, status: int) -> None:
    page.goto("/runs/new?dataset=a")
    field(page, "name").fill("my run")
    page.route("**/runs/new?view=simple", lambda route: route.fulfill(status=status, body="Not now"), times=1)
    with page.expect_response("**/runs/new?view=simple"):
        page.reload()
    epochs, offered = field(page, "training.num_train_epochs"), page.locator("#draft-aside")
    epochs.fill("7")
    expect(offered).to_be_visible()
    with page.expect_request("**/runs/preflight?part=deep"):
        page.wait_for_timeout(3000)  # the studio answers again, which says so a second later
    expect(epochs).to_have_value("7")
    page.reload()
    expect(epochs).to_have_value("7", timeout=15_000)
    expect(field(page, "name")).to_have_value("")
    offered.get_by_role("button", name="Bring it back").click()
    expect(field(page, "name")).to_have_value("my run", timeout=15_000)
    expect(offered).to_be_hidden()
    page.reload()
    expect(field(page, "name")).to_have_value("my run", timeout=15_000)


def test_a_draft_that_is_refused_is_not_sent_at_each_visit(page: Page) -> None:
    page.goto("/runs/new?dataset=a")
    field(page, "name").fill("my run")
    page.route("**/runs/new?view=simple", lambda route: route.fulfill(status=422, body="Never"), times=1)
    page.reload()
    expect(page.locator("#draft-aside")).to_be_visible()
    page.reload()
    expect(page.locator("#draft-aside")).to_be_visible()
    says(page, "Ready to start|stops this run")
    expect(field(page, "name")).to_have_value("")
    page.get_by_role("button", name="Discard").click()
    page.reload()
    says(page, "Ready to start|stops this run")
    expect(page.locator("#draft-aside")).to_be_hidden()


def test_a_recipe_of_somebody_else_is_not_saved_and_the_form_says_so(page: Page, session: Session) -> None:
    owner = people.create(session, "ben", "no password", Role.MEMBER, by=None)
    recipes.save(session, "theirs", {"model": "tiny", "data": {"sets": ["a"]}, "method": "lora"}, by=owner.id)
    session.commit()
    page.goto("/runs/new?dataset=a")
    page.get_by_role("button", name="Save recipe").click()
    page.locator("#save_as").fill("theirs")
    page.keyboard.press("Enter")
    expect(page.locator("#preflight")).to_contain_text("That belongs to somebody else.")


def test_a_refusal_is_told_until_what_was_refused_succeeds(page: Page) -> None:
    page.goto("/runs/new?dataset=a")
    told = {"error": {"message": "You have asked for very much at once."}}
    page.route("**/runs/new?view=advanced", lambda route: route.fulfill(status=429, json=told), times=1)
    page.get_by_role("button", name="Advanced").click()
    expect(page.locator("#refused")).to_contain_text("very much at once")
    page.get_by_role("button", name="Advanced").click()
    page.wait_for_url("**/runs/new?view=advanced")
    expect(page.locator("#refused")).to_be_hidden()


def test_a_wrong_line_is_marked_reached_and_mended_from_the_list(page: Page) -> None:
    page.goto("/runs/new?dataset=a&view=yaml")
    page.locator("#yaml").fill("model: tiny\ndata: {sets: [a]}\nmethod:\n  kind: lora\n  lora_alhpa: 8\n")
    says(page, "Line 5 stops this run")
    expect(page.locator("[data-gutter] span").nth(4)).to_have_class("wrong")
    page.get_by_role("link", name="Line 5").click()
    assert page.evaluate("() => getSelection().toString()") == "  lora_alhpa: 8"
    page.get_by_role("button", name="Use lora_alpha").click()
    expect(page.locator("#yaml")).to_have_value(re.compile("lora_alpha: 8"))
    says(page, "Ready to start|Reading the rows")
    page.keyboard.press("Tab")  # the text does not hold the keyboard
    expect(page.locator("#yaml")).not_to_be_focused()
    page.get_by_role("button", name="Simple").click()
    expect(page.locator("#yaml")).to_have_count(0)
    recipe = {"name": "r.yaml", "mimeType": "application/yaml", "buffer": b"model: tiny\nmethod: full\n"}
    page.set_input_files("[data-imports] input", recipe)  # type: ignore[arg-type]
    expect(page.locator("#yaml")).to_have_value("model: tiny\nmethod: full\n")
    page.set_input_files("[data-imports] input", recipe | {"buffer": b" " * ((1 << 20) + 1)})  # type: ignore[arg-type]
    expect(page.locator("#refused")).to_contain_text("This file is larger than 1 MiB")


def test_prompts_recipes_and_clones_by_keyboard_and_click(page: Page, session: Session) -> None:
    page.goto("/runs/new?dataset=a&truncation=drop")
    page.locator("[name='evaluation.prompts.0']").fill("Who are you?")
    page.get_by_role("button", name="Add a prompt").click()
    page.keyboard.type("Greet Ben.")
    expect(page.locator("[name='evaluation.prompts.1']")).to_have_value("Greet Ben.")
    page.get_by_role("button", name="Remove this prompt").first.click()
    expect(page.locator("[name='evaluation.prompts.0']")).to_have_value("Greet Ben.")
    page.get_by_role("button", name="Take 4").click()
    expect(page.locator("ol.prompts li")).not_to_have_count(1)
    page.get_by_role("button", name="Save recipe").click()
    page.locator("#save_as").fill("greet")
    page.locator("#save_as").evaluate(
        "(field) => field.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true }))"
    )
    page.locator("#save_as").fill("greetings")
    page.keyboard.press("Enter")
    expect(page.locator("#new-run .banner")).to_contain_text("Saved as “greetings”, version 1.")
    page.wait_for_url("**recipe=greetings")
    says(page, "Ready to start")
    page.locator("#f-name").fill("by keyboard")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/runs/by%20keyboard", timeout=30_000)
    run = session.scalars(select(Run)).one()
    assert run.recipe["evaluation"]["prompts"][0] == "Greet Ben."
    page.goto("/runs/new?clone=by%20keyboard&view=advanced")
    field(page, "method.r").fill("8")
    page.get_by_role("button", name="YAML", exact=True).click()
    expect(page.locator("#differences")).to_contain_text("method.r")
