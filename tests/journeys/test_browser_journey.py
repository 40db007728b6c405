"""From the set-up link to a merged model that loads anywhere, in a real browser at a real studio."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from backend.core.archives import ArchivedFile, files_sha256
from tests.conftest import SHARED
from tests.journeys.conftest import STORIES
from tests.journeys.curves import assert_continues, assert_stored, marks, painted, points_reach
from tests.journeys.materials import PROMPT, generate_elsewhere, write_alpaca
from tests.support.studios import PASSWORD, Studio
from tests.support.trouble import Trouble

pytestmark = pytest.mark.browser

STEPS = 2000
"""More than a run gets to before it is stopped, on a machine many times faster than ours; it is shortened on the way."""
REST = 15


@dataclass(frozen=True)
class Trip:
    """What a journey is made with, and how many of its rows are longer than the model reads."""

    model: Path
    file: Path
    rows: int
    too_long: int


@pytest.fixture(scope="module")
def trouble() -> Trouble:
    return Trouble()


@pytest.fixture(scope="module")
def visitor(browser: Browser, studio: Studio, trouble: Trouble) -> Iterator[BrowserContext]:
    """A browser whose person followed the set-up link."""
    context = browser.new_context(base_url=studio.address, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(30_000)
    trouble.watch(context)
    page = context.new_page()
    page.goto(studio.setup_link)
    page.fill("[name=name]", "ada")
    page.fill("[name=password]", PASSWORD)
    page.fill("[name=again]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(studio.address + "/")
    page.close()
    yield context
    context.close()


@pytest.fixture(params=["own", pytest.param("shared", marks=pytest.mark.shared)])
def trip(request: pytest.FixtureRequest, tiny_base: Path, tmp_path: Path) -> Trip:
    """What the project makes itself, and the real thing."""
    if request.param == "shared":
        return Trip(STORIES, SHARED / "data" / "alpaca_en_demo.json", rows=999, too_long=400)
    file = write_alpaca(tmp_path / "questions.json", rows=60)
    long = {"instruction": "What does the owl eat?", "output": "The owl eats mice. " * 200}
    file.write_text(json.dumps([*json.loads(file.read_text()), long]))
    return Trip(tiny_base, file, rows=61, too_long=1)


def test_a_file_becomes_a_merged_model(
    visitor: BrowserContext, studio: Studio, trouble: Trouble, trip: Trip, tmp_path: Path
) -> None:
    page, name = visitor.new_page(), f"clicked {trip.model.name}"
    dataset = upload(page, trip)
    launch(page, trip, dataset, name)

    points_reach(page, 3)
    before = painted(page)
    page.reload()
    now = painted(page)
    assert_continues(now, before)
    assert_stored(now, studio, name, is_whole=False)

    stop_and_keep(page)
    expect(page.locator("#run-status")).to_have_attribute("data-state", "stopped", timeout=60_000)
    expect(page.locator("[data-artifact]")).to_have_count(2)
    halfway = len(painted(page)["loss"])
    page.get_by_role("button", name="Resume").click()
    change(page, "training.max_steps", halfway + REST)
    expect(page.locator("#run-status")).to_have_attribute("data-state", "succeeded", timeout=120_000)

    whole = painted(page)
    assert_stored(whole, studio, name, is_whole=True)
    assert [step for step, _ in whole["loss"]] == list(range(1, len(whole["loss"]) + 1)), "each step once"
    assert halfway < len(whole["loss"]) < STEPS
    expect(page.locator("[data-amendment] .pill")).to_have_text(f"holds from step {marks(page)}")
    expect(page.locator("[data-artifact]")).to_have_count(2)
    folders = {kind: download(page, kind, tmp_path) for kind in ("adapter", "merged")}
    assert "answered:" in generate_elsewhere(folders["merged"])
    assert (folders["adapter"] / "adapter_model.safetensors").is_file()
    assert trouble.found == []


COUNT_CLICKS = """
  addEventListener("click", (event) => event.isTrusted && tellClick(event.target.textContent.trim().slice(0, 40)), true);
"""


def test_five_steps_lead_from_a_file_to_a_merged_model_in_chinese(
    browser: Browser, visitor: BrowserContext, studio: Studio, tmp_path: Path
) -> None:
    context = browser.new_context(base_url=studio.address, storage_state=visitor.storage_state(), locale="zh-CN")
    clicks: list[str] = []
    trouble = Trouble()
    context.expose_binding("tellClick", lambda _source, what: clicks.append(what))
    context.add_init_script(COUNT_CLICKS)
    trouble.watch(context)
    page = context.new_page()
    page.goto("/datasets?lang=zh")

    page.set_input_files("[data-files]", write_alpaca(tmp_path / "五步.json"))  # dropped: the first step
    expect(page.locator("[data-asking]")).to_be_visible(timeout=30_000)
    page.click("[data-send]")
    page.locator("#train").click(timeout=60_000)
    expect(page.locator("[name='model.path']")).not_to_have_value("")
    start = page.locator("#preflight [data-start]")
    expect(page.locator("#preflight")).to_contain_text("可以开始", timeout=60_000)
    start.click()
    expect(page.locator("#run-status")).to_have_attribute("data-state", "succeeded", timeout=180_000)
    expect(page.locator("#run-status")).to_contain_text("已完成")
    with page.expect_download() as started:
        page.locator("[data-artifact=merged]").get_by_role("link", name="下载").click()
    started.value.save_as(tmp_path / "merged.zip")

    assert len(clicks) == 4, clicks
    with zipfile.ZipFile(tmp_path / "merged.zip") as opened:
        opened.extractall(tmp_path)
    assert "answered:" in generate_elsewhere(next(tmp_path.glob("*/model.safetensors")).parent)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    assert trouble.found == []
    context.close()


def test_each_role_does_what_it_may_and_no_more(browser: Browser, visitor: BrowserContext, studio: Studio) -> None:
    """Two people are invited and sign in, each in a browser of their own: one only looks, one has runs of her own."""
    admin = visitor.new_page()
    grace, linus = [invited(browser, studio, admin, name, role) for name, role in ROLES.items()]
    with studio.client() as client:
        run = client.runs(1)[0].name

    linus.goto(f"/runs/{run}")
    expect(linus.locator("#run-status")).to_be_visible()
    expect(linus.locator("#run-status form, [data-menu=stop], [href^='/runs/new']")).to_have_count(0)
    assert post(linus, "/runs", {"name": "mine"}) == post(linus, f"/runs/{run}/act", {"act": "stop"}) == 403

    grace.goto(f"/runs/new?clone={run}&training.max_steps={STEPS}")
    grace.fill("[name=name]", "hers")
    expect(grace.locator("#preflight")).to_contain_text("Ready", timeout=60_000)
    grace.click("#preflight [data-start]")
    grace.wait_for_url("**/runs/hers")
    assert post(grace, f"/runs/{run}/act", {"act": "stop"}) == 403
    points_reach(grace, 1)
    grace.get_by_role("button", name="Pause").click()
    expect(grace.locator("#run-status")).to_have_attribute("data-state", "paused", timeout=60_000)

    admin.goto("/runs/hers")
    admin.click("[data-menu=stop] > summary")
    admin.click("[data-opens=ask-discard]")
    admin.click("#ask-discard .primary")
    expect(admin.locator("#run-status")).to_have_attribute("data-state", "stopped")
    expect(grace.locator("#run-status")).to_have_attribute("data-state", "stopped", timeout=10_000)
    for page in (admin, grace, linus):
        page.close()


ROLES = {"grace": "member", "linus": "viewer"}


def invited(browser: Browser, studio: Studio, admin: Page, name: str, role: str) -> Page:
    """The administrator makes the account and hands the link on; its person sets a password."""
    admin.goto("/settings/people")
    admin.click("[data-opens=invite]")
    admin.fill("#invite [name=name]", name)
    admin.select_option("#invite [name=role]", role)
    admin.click("#invite .primary")
    link = admin.locator("[data-link]").get_attribute("data-link")
    assert link
    page = browser.new_context(base_url=studio.address, locale="en-GB").new_page()
    page.goto(link)
    page.fill("[name=password]", PASSWORD)
    page.fill("[name=again]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(studio.address + "/")
    return page


def post(page: Page, path: str, form: dict[str, str | float | bool]) -> int:
    """The status of a form that the page does not show, sent with all that its person has."""
    token = page.locator("body").get_attribute("data-csrf") or ""
    headers = {"X-CSRF-Token": token, "Origin": page.url.split("/runs")[0]}
    return page.request.post(path, form=form, headers=headers, max_redirects=0).status


def upload(page: Page, trip: Trip) -> str:
    """Through the data-set page. Returns what the data set is called there."""
    page.goto("/datasets")
    page.set_input_files("[data-files]", trip.file)
    expect(page.locator("[data-asking]")).to_be_visible()
    name = page.locator("[data-as]").input_value()
    page.click("[data-send]")
    page.wait_for_url(f"**/datasets/{name}**")
    expect(page.locator("main")).to_contain_text(f"{trip.rows} rows")
    return name


def launch(page: Page, trip: Trip, dataset: str, name: str) -> None:
    """Fill the form in, take the remedy that preflight offers for long rows, and start."""
    page.goto("/runs/new?view=advanced")
    page.select_option("[name='model.path']", trip.model.name)
    page.select_option("[name='data.sets.0.name']", dataset)
    page.check("[name='method.kind'][value=qlora]")
    preflight = page.locator("#preflight")
    preflight.get_by_role("button", name="Leave them out").click(timeout=60_000)
    expect(preflight).to_contain_text(f"{trip.too_long} rows are left out", timeout=60_000)
    settings = {
        "name": name,
        "method.r": "4",
        "training.max_steps": str(STEPS),
        "training.per_device_train_batch_size": "2",
        "training.gradient_accumulation_steps": "2",
        "training.learning_rate": "1e-3",
        "evaluation.prompts.0": PROMPT,
        "evaluation.eval_steps": "20",
        "evaluation.sample_steps": "10",
        "evaluation.max_new_tokens": "4",
        "saving.save_steps": "20",
    }
    for setting, value in settings.items():
        fill(page, setting, value)
    expect(preflight).to_contain_text("Ready", timeout=60_000)
    preflight.locator("[data-start]").click()
    page.wait_for_url(re.compile(r"/runs/clicked"))


def fill(page: Page, setting: str, value: str) -> None:
    """Type into a setting, opening the groups that hide it."""
    control = page.locator(f"[name='{setting}']")
    for group in control.locator("xpath=ancestor::details").all():
        if group.get_attribute("open") is None:
            group.locator("> summary").click()
    control.fill(value)


def stop_and_keep(page: Page) -> None:
    page.click("[data-menu=stop] summary")
    page.click("[data-opens=ask-stop]")
    asked = page.locator("#ask-stop")
    expect(asked).to_contain_text("keep what it has learned")
    asked.get_by_role("button", name="Stop and keep").click()


def change(page: Page, setting: str, value: int) -> None:
    """In mid-run, by the dialog."""
    page.click("[data-opens=ask-amend]")
    page.fill(f"#ask-amend [name='{setting}']", str(value))
    page.keyboard.press("Enter")
    expect(page.locator("#ask-amend")).to_be_hidden()
    expect(page.locator("[data-amendment]")).to_contain_text(str(value))


def download(page: Page, kind: str, to: Path) -> Path:
    """Save and unpack what the link, reached by keyboard, gives; its files are what the page says of them."""
    shown = page.locator(f"[data-artifact={kind}]")
    shown.locator(".files summary").last.focus()
    page.keyboard.press("Tab")
    expect(shown.get_by_role("link", name="Download")).to_be_focused()
    with page.expect_download() as started:
        page.keyboard.press("Enter")
    archive = to / started.value.suggested_filename
    started.value.save_as(archive)
    with zipfile.ZipFile(archive) as opened:
        files = [archived(opened, entry) for entry in opened.infolist()]
        opened.extractall(to)
    assert shown.locator("[data-copy-text]").inner_text() == files_sha256(files)
    assert shown.locator(".files .hash").all_text_contents() == [file.sha256 for file in files]
    return to / archive.stem


def archived(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> ArchivedFile:
    name = entry.filename.partition("/")[2]
    return ArchivedFile(name, entry.file_size, hashlib.sha256(archive.read(entry)).hexdigest(), entry.CRC)
