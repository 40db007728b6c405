"""The settings in a real browser: every button of every section is pressed once."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.models import Device, Role, Worker
from backend.core.settings import Settings
from tests.support.showcase import Shipper
from tests.web.conftest import account, queued_run

WORDS = "four quiet words"
SECTIONS = ("you", "sessions", "tokens", "people", "workers", "storage", "audit")


def done(page: Page, words: str) -> None:
    expect(page.locator(".done")).to_contain_text(words)


def test_somebody_is_invited_by_a_link_and_comes_in_by_it(
    page: Page, context: BrowserContext, browser: Browser, served: str
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/settings/people")
    page.click("[data-opens=invite]")
    page.fill("#invite [name=name]", "bob")
    page.select_option("#invite [name=role]", "viewer")
    page.click("#invite .primary")
    page.click("[data-copies=new-secret]")
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert link.startswith(f"{served}/invitation?token=")
    expect(page.locator("[data-person=bob]")).to_contain_text("invited; the link ends")
    stranger = browser.new_context()
    try:
        theirs = stranger.new_page()
        theirs.goto(link)
        theirs.fill("[name=password]", WORDS)
        theirs.fill("[name=again]", WORDS)
        theirs.keyboard.press("Enter")
        theirs.wait_for_url(f"{served}/")
        theirs.goto(f"{served}/settings")
        expect(theirs.locator("#you-title")).to_have_text("bob")
    finally:
        stranger.close()


def test_a_role_is_saved_once_it_was_changed(page: Page, session: Session) -> None:
    account(session, Role.VIEWER, "bob")
    page.goto("/settings/people")
    row = page.locator("[data-person=bob]")
    expect(row.get_by_role("button", name="Save")).to_be_hidden()
    row.get_by_role("combobox").select_option("member")
    row.get_by_role("button", name="Save").click()
    done(page, "Done.")
    session.rollback()
    assert people.find(session, "bob").role == Role.MEMBER


def test_a_person_is_signed_out_suspended_let_in_and_removed(page: Page, session: Session) -> None:
    account(session, Role.MEMBER, "bob")
    page.goto("/settings/people")

    def manage(act: str) -> None:
        page.locator("[data-person=bob] [data-opens]").click()
        page.locator("[data-person=bob] dialog").get_by_role("button", name=act, exact=True).click()

    manage("Close")
    expect(page.locator("[data-person=bob] dialog")).to_be_hidden()
    manage("Sign out")
    done(page, "Done.")
    manage("Make the link")
    expect(page.locator("#new-secret")).to_contain_text("/invitation?token=")
    manage("Suspend")
    expect(page.locator("[data-person=bob]")).to_contain_text("suspended")
    manage("Let in")
    expect(page.locator("[data-person=bob]")).not_to_contain_text("suspended")
    manage("Remove")
    expect(page.locator("[data-person=bob]")).to_have_count(0)


def test_a_token_is_made_copied_and_revoked_after_a_question(page: Page, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/settings/tokens")
    page.fill("#token-name", "ci")
    page.select_option("#token-role", "viewer")
    page.fill("#token-days", "7")
    page.get_by_role("button", name="Make the token").click()
    page.click("[data-copies=new-secret]")
    assert page.evaluate("() => navigator.clipboard.readText()").startswith("fts_")
    page.goto("/settings/tokens")
    expect(page.locator("#new-secret")).to_have_count(0)
    page.get_by_role("button", name="Revoke").click()
    page.locator("dialog[open]").get_by_role("button", name="Cancel").click()
    expect(page.locator(".badge", has_text="revoked")).to_have_count(0)
    page.get_by_role("button", name="Revoke").click()
    page.locator("dialog[open]").get_by_role("button", name="Revoke").click()
    done(page, "The token is revoked.")
    expect(page.locator(".badge", has_text="revoked")).to_have_count(1)


def test_other_browsers_are_signed_out_one_by_one_and_all_at_once(page: Page, session: Session) -> None:
    for _ in range(3):
        people.sign_in(session, people.find(session, "the admin"), "Mozilla/5.0 (X11) Firefox/142.0", hours=1)
    session.commit()
    page.goto("/settings/sessions")
    expect(page.locator("[data-session]")).to_have_count(4)
    page.locator("[data-session]").get_by_role("button", name="Sign out").first.click()
    done(page, "That browser is signed out.")
    page.get_by_role("button", name="Sign out everywhere else").click()
    page.locator("dialog[open]").get_by_role("button", name="Sign out", exact=True).click()
    done(page, "Every other browser is signed out.")
    expect(page.locator("[data-session]")).to_have_count(1)


def test_language_theme_and_password_are_ones_own(page: Page, session: Session) -> None:
    user = people.find(session, "the admin")
    user.password_hash = people.hash_password(WORDS)
    people.create_token(session, user, "ci", role=Role.VIEWER, days=1, by=user.id)
    session.commit()
    page.goto("/settings/you")
    root = page.locator("html")
    for theme in ("dark", "light"):
        page.click(f"[data-themes] [value={theme}]")
        expect(root).to_have_attribute("data-theme", theme)
        expect(page.locator(f"[data-themes] [value={theme}]")).to_have_attribute("aria-pressed", "true")
    page.click("[data-themes] [value='']")
    assert root.get_attribute("data-theme") is None
    assert page.evaluate("() => localStorage.getItem('theme')") is None
    page.click("[name=language][value=zh]")
    expect(root).to_have_attribute("lang", "zh-CN")
    page.click("[name=language][value=en]")
    expect(root).to_have_attribute("lang", "en")
    for name, value in (("old", WORDS), ("new", "five other quiet words"), ("again", "five other quiet words")):
        page.fill(f"[name={name}]", value)
    page.check("[name=revoke]")
    page.get_by_role("button", name="Change the password").click()
    done(page, "your API tokens are revoked")


def test_a_worker_is_drained_and_let_work_again(page: Page, session: Session) -> None:
    session.add(Worker(name="box", place="here", facts={}))
    session.flush()
    session.add(Device(worker="box", name="cpu", title="A small card", memory_bytes=4 << 30))
    session.commit()
    run = queued_run(session)
    Shipper(session).train([1])
    page.goto("/settings/workers")
    box = page.locator("[data-worker=box]")
    expect(box.get_by_role("link", name=run.name)).to_be_visible()
    box.get_by_role("button", name="Drain").click()
    expect(page.locator("[data-worker=box] .pill")).to_have_text("Draining")
    box.get_by_role("button", name="Let it work again").click()
    expect(page.locator("[data-worker=box] .pill")).to_have_text("Up")
    page.click("[data-opens=add-machine]")
    expect(page.locator("#worker-command")).to_contain_text("studio worker")
    page.locator("#add-machine").get_by_role("button", name="Close").click()
    expect(page.locator("#add-machine")).to_be_hidden()


def test_the_disk_appears_by_itself_and_is_cleaned_up_after_a_question(page: Page, here: Settings) -> None:
    given_up = here.folder("uploads") / "a.part"
    given_up.write_bytes(os.urandom(8192))
    os.utime(given_up, (1e9, 1e9))
    page.goto("/settings/storage")
    expect(page.locator("#storage .usage")).to_be_visible(timeout=15_000)
    page.click("[data-opens=clean-up]")
    expect(page.locator("#clean-up")).to_contain_text("1 upload that nobody went on with")
    page.get_by_role("button", name="Delete these").click()
    expect(page.locator(".finding.good")).to_contain_text("8.0 KiB freed")
    assert not given_up.exists()


def test_the_audit_is_narrowed_turned_and_downloaded(page: Page, session: Session) -> None:
    for number in range(60):
        people.audit(session, people.find(session, "the admin").id, "recipe.delete", f"recipe {number}")
    session.commit()
    page.goto("/settings/audit")
    page.select_option("#audit-action", "recipe.delete")
    page.select_option("#audit-person", "the admin")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile("action=recipe.delete"))
    expect(page.locator("[data-action]")).to_have_count(50)
    page.get_by_role("link", name="Older entries").click()
    expect(page.locator("[data-action]")).to_have_count(10)
    with page.expect_download() as download:
        page.get_by_role("link", name="As CSV").click()
    assert len(download.value.path().read_text().splitlines()) == 61
    with page.expect_download() as download:
        page.get_by_role("link", name="As JSONL").click()
    assert len(download.value.path().read_text().splitlines()) == 60
    page.locator(".filters").get_by_role("link", name="Everything").click()
    expect(page.locator("#audit-action")).to_have_value("")


@pytest.mark.parametrize(("language", "width", "theme"), [("zh", 390, "dark"), ("en", 1024, "light")])
def test_every_section_fits_its_screen(page: Page, session: Session, language: str, width: int, theme: Any) -> None:
    account(session, Role.MEMBER, "somebody with quite a long name")
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=theme)
    for section in SECTIONS:
        page.goto(f"/settings/{section}?lang={language}")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, section
        expect(page.locator(".side > nav [aria-current=page]")).to_have_count(1)
