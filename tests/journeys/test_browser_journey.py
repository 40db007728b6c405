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
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from sqlalchemy import create_engine, select

from backend.core.archives import ArchivedFile, files_sha256
from backend.core.db import driver_url
from backend.core.models import Point, Run
from backend.embedded.postgres import Postgres
from tests.conftest import SHARED
from tests.journeys.conftest import STORIES
from tests.journeys.materials import PROMPT, generate_elsewhere, write_alpaca
from tests.support.studios import PASSWORD, Studio
from tests.support.trouble import Trouble

pytestmark = pytest.mark.browser

STEPS = 2000
"""More than a run gets to before it is stopped, on a machine many times faster than ours; it is shortened on the way."""
REST = 15
CHARTS = ("loss eval_loss", "grad_norm", "learning_rate")
Curves = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Trip:
    """What a journey is made with, and how many of its rows are longer than the model reads."""

    model: Path
    file: Path
    rows: int
    too_long: int


@pytest.fixture(scope="module")
def browser(chromium_path: Path) -> Iterator[Browser]:
    """One for this file: Playwright's loop must be gone before tests with a loop of their own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        yield browser
        browser.close()


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


def upload(page: Page, trip: Trip) -> str:
    """Through the data-set page. Returns what the data set is called there."""
    page.goto("/datasets")
    page.set_input_files("input[type=file]", trip.file)
    name = page.locator("[data-as]").input_value()
    page.click("[data-send]")
    page.wait_for_url(f"**/datasets/{name}")
    expect(page.locator("main")).to_contain_text(f"{trip.rows} rows")
    return name


def launch(page: Page, trip: Trip, dataset: str, name: str) -> None:
    """Fill the form in, take the remedy that preflight offers for long rows, and start."""
    page.goto("/runs/new?view=advanced")
    page.select_option("[name='model.path']", trip.model.name)
    page.select_option("[name='data.sets.0.name']", dataset)
    page.check("[name='method.kind'][value=qlora]")
    page.get_by_role("button", name="Leave them out").click()
    expect(page.locator("#preflight")).to_contain_text(f"{trip.too_long} rows are left out", timeout=30_000)
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
    expect(page.locator("#preflight")).to_contain_text("Ready", timeout=30_000)
    page.click("[data-start]")
    page.wait_for_url(re.compile(r"/runs/clicked"))


def fill(page: Page, setting: str, value: str) -> None:
    """Type into a setting, opening the groups that hide it."""
    control = page.locator(f"[name='{setting}']")
    for group in control.locator("xpath=ancestor::details").all():
        if group.get_attribute("open") is None:
            group.locator("> summary").click()
    control.fill(value)


def points_reach(page: Page, count: int) -> None:
    chart = page.locator(f'[data-chart="{CHARTS[0]}"]')
    expect(chart).to_have_attribute("data-points", re.compile(rf"^({count}|[1-9]\d+|[{count}-9])$"), timeout=60_000)


def painted(page: Page) -> Curves:
    """Every point of every curve, from the tables that stand for the charts."""
    curves: Curves = {}
    for chart in CHARTS:
        table = page.locator(f'[data-chart="{chart}"] .twin')
        if table.get_attribute("open") is None:
            table.locator("summary").click()
        lines = table.locator("tbody tr")
        expect(lines).not_to_have_count(0)  # the table is filled once it is open
        rows = lines.evaluate_all("lines => lines.map((line) => [...line.cells].map((cell) => cell.dataset.value))")
        for column, name in enumerate(chart.split(), start=1):
            curves[name] = [(int(row[0]), float(row[column])) for row in rows if row[column]]
    return curves


def stored(studio: Studio, run: str) -> Curves:
    """The same curves as Postgres holds them."""
    engine = create_engine(driver_url(Postgres(studio.home).url))
    names = [name for chart in CHARTS for name in chart.split()]
    with engine.connect() as connection:
        query = select(Point.name, Point.step, Point.value).join(Run, Run.id == Point.run_id).where(Run.name == run)
        rows = connection.execute(query.order_by(Point.step)).all()
    engine.dispose()
    return {name: [(step, value) for each, step, value in rows if each == name] for name in names}


def assert_stored(curves: Curves, studio: Studio, run: str, *, is_whole: bool) -> None:
    """What is painted is stored, to the last digit; `is_whole`: and nothing more is."""
    for name, points in stored(studio, run).items():
        ours = curves[name]
        last = ours[-1][0] if ours else 0
        assert ours == [point for point in points if is_whole or point[0] <= last], name


def assert_continues(curves: Curves, before: Curves) -> None:
    for name, points in before.items():
        assert curves[name][: len(points)] == points, f"{name} after a reload"


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


def marks(page: Page) -> str:
    """The steps that the main chart marks."""
    return page.locator(f'[data-chart="{CHARTS[0]}"]').get_attribute("data-marks") or "none"


def download(page: Page, kind: str, to: Path) -> Path:
    """Save and unpack what the link, reached by keyboard, gives; its files are what the page says of them."""
    shown = page.locator(f"[data-artifact={kind}]")
    shown.locator(".files summary").focus()
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
