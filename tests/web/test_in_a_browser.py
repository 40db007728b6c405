"""The pages in a real browser under their real content policy. No trainer here: a run's journal is shipped by hand."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.assignment import LineKind, Outcome
from backend.core.errors import Problem
from backend.core.models import Point, Run
from backend.core.settings import Settings
from tests.support.showcase import Shipper
from tests.web.conftest import queued_run

PAGES = (
    "/",
    "/datasets",
    "/models",
    "/runs",
    "/runs/new",
    "/recipes",
    "/settings/people",
    "/settings",
    "/help",
    "/api/docs",
)


def painted(page: Page) -> list[tuple[int, str]]:
    """Step and loss of every point of the chart, from its table."""
    table = page.locator('[data-chart="loss eval_loss"] .twin')
    if table.get_attribute("open") is None:
        table.locator("summary").click()
    expect(table.locator("tbody tr")).not_to_have_count(0)  # it is filled once it is open
    return [
        (int(step), value)
        for step, value in table.locator("tbody tr").evaluate_all(
            "rows => rows.map((row) => [row.cells[0].dataset.value, row.cells[1].dataset.value])"
        )
    ]


def stored(session: Session, run: Run) -> list[tuple[int, float]]:
    query = select(Point.step, Point.value).where(Point.run_id == run.id, Point.name == "loss").order_by(Point.step)
    return [(step, value) for step, value in session.execute(query)]


def points(page: Page, count: int) -> None:
    expect(page.locator('[data-chart="loss eval_loss"]')).to_have_attribute("data-points", str(count), timeout=30_000)


@pytest.mark.parametrize(("language", "width", "theme"), [("en", 390, "light"), ("zh", 1440, "dark")])
def test_every_page_keeps_the_policy_and_never_scrolls_sideways(
    page: Page, session: Session, language: str, width: int, theme: Any
) -> None:
    run = queued_run(session)
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=theme)
    for path in (*PAGES, f"/runs/{run.name}"):
        answer = page.goto(f"{path}?lang={language}")
        assert answer is not None
        assert answer.ok, path
        expect(page.locator("html")).to_have_attribute("lang", "zh-CN" if language == "zh" else "en")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, path


def test_a_live_curve_grows_and_is_what_the_database_holds(page: Page, session: Session) -> None:
    run = queued_run(session)
    shipper = Shipper(session)
    shipper.train(range(1, 6))
    page.goto(f"/runs/{run.name}")
    points(page, 5)
    shipper.train(range(6, 21))
    points(page, 20)
    assert [(step, float(value)) for step, value in painted(page)] == stored(session, run)
    expect(page.locator("[data-latest=loss]")).to_have_text("0.05")


def test_a_run_that_went_back_shows_each_step_once_and_as_it_was_trained(page: Page, session: Session) -> None:
    run = queued_run(session)
    shipper = Shipper(session)
    shipper.train(range(1, 11))
    page.goto(f"/runs/{run.name}")
    points(page, 10)
    shipper.rewind(4)
    points(page, 4)
    shipper.train(range(5, 9), offset=3.0)
    points(page, 8)
    assert [(step, float(value)) for step, value in painted(page)] == stored(session, run)


def test_a_loss_that_is_no_number_is_a_gap_with_a_mark(page: Page, session: Session) -> None:
    run = queued_run(session)
    shipper = Shipper(session)
    shipper.ship(LineKind.METRICS, [1, 2, 3], lambda step: {"values": {"loss": "NaN" if step == 2 else 1.0}})
    page.goto(f"/runs/{run.name}")
    expect(page.locator('[data-chart="loss eval_loss"] [data-odd]')).to_have_text("not a finite number from step 2")
    assert painted(page) == [(1, "1"), (2, "NaN"), (3, "1")]


def test_samples_arrive_as_text_without_a_reload(page: Page, session: Session) -> None:
    run = queued_run(session)
    shipper = Shipper(session)
    page.goto(f"/runs/{run.name}")
    answer = {
        "index": 0,
        "prompt": "Who?",
        "text": "<img src=x onerror=alert(1)> an owl",
        "tokens": 5,
        "finish": "stop",
    }
    shipper.ship(LineKind.SAMPLE, [0, 10], lambda _: answer)
    expect(page.locator("[data-samples] li")).to_have_count(2, timeout=10_000)
    expect(page.locator("[data-samples] li p").first).to_have_text("<img src=x onerror=alert(1)> an owl")


def test_eight_tabs_share_one_stream_and_all_of_them_move(context: BrowserContext, session: Session) -> None:
    run = queued_run(session)
    shipper = Shipper(session)
    streams: list[str] = []
    context.on("request", lambda request: streams.append(request.url) if "/api/v1/events" in request.url else None)
    tabs = [context.new_page() for _ in range(8)]
    for tab in tabs:
        tab.goto(f"/runs/{run.name}")
    shipper.train(range(1, 4))
    for tab in tabs:
        points(tab, 3)
    assert len(streams) == 1
    tabs[0].close()  # it held the stream; another goes on
    shipper.train(range(4, 7))
    for tab in tabs[1:]:
        points(tab, 6)


def test_a_run_that_is_gone_does_not_end_the_stream_of_the_others(context: BrowserContext, session: Session) -> None:
    gone, here = queued_run(session, "gone"), queued_run(session, "here")
    first, second = context.new_page(), context.new_page()
    first.goto("/runs/gone")
    expect(first.locator("[data-latest=loss]")).to_have_text("–")
    session.execute(delete(Run).where(Run.id == gone.id))
    session.commit()
    second.goto("/runs/here")  # the shared stream is opened anew, for both
    expect(first.locator("[data-connection]")).to_have_text("This run is no longer there.", timeout=30_000)
    Shipper(session).train(range(1, 4))
    points(second, 3)
    assert stored(session, here) == [(step, 1 / step) for step in (1, 2, 3)]
    expect(first.locator("[data-connection]")).to_have_text("This run is no longer there.")


def test_a_tab_that_was_signed_out_keeps_no_news_from_one_that_signs_in_again(
    context: BrowserContext, session: Session
) -> None:
    queued_run(session)
    first, second = context.new_page(), context.new_page()
    first.goto("/runs")
    first.wait_for_timeout(300)  # the stream opens
    cookie = next(cookie for cookie in context.cookies() if cookie.get("name") == "studio")
    identity = people.find_session(session, cookie["value"])
    assert identity
    people.sign_out(session, identity)
    session.commit()
    expect(first.locator("#away")).to_contain_text("You are signed out", timeout=30_000)
    again = people.sign_in(session, people.find(session, identity.name), "test", hours=1)
    session.commit()
    context.add_cookies([{"name": "studio", "value": again, "url": first.url}])
    second.goto("/runs")
    Shipper(session).train([1, 2])
    expect(second.locator("[data-cell=loss]")).to_have_text("0.5", timeout=10_000)


def test_times_are_told_by_the_clock_of_the_server(page: Page, session: Session) -> None:
    page.add_init_script("const now = Date.now; Date.now = () => now() - 3600e3;")
    queued_run(session)
    page.goto("/runs")
    age = page.locator("[data-run] time").first
    expect(age).to_have_text(re.compile(r"^\d+ seconds? ago$"))
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    expect(age).to_have_text(re.compile(r"^\d+ seconds? ago$"))


def test_what_happened_just_now_is_no_time_to_come_on_a_page_that_took_long_to_load(
    page: Page, session: Session
) -> None:
    queued_run(session)
    shipper = Shipper(session)
    shipper.train(range(1, 5))

    def late(route: Route) -> None:
        time.sleep(8)
        route.continue_()

    page.route("**/*.js", late, times=1)
    page.goto("/runs/first")
    shipper.end(Outcome.FAILED, Problem("crashed", "It died."))
    expect(page.locator("#run-status")).to_have_attribute("data-state", "failed", timeout=10_000)
    expect(page.locator("#run-status time[data-ago]").first).to_have_text(re.compile(r"^\d seconds? ago$"))


def test_a_change_in_mid_run_is_asked_for_in_a_dialog_and_marked_where_it_holds(page: Page, session: Session) -> None:
    queued_run(session)
    shipper = Shipper(session)
    shipper.train(range(1, 5))
    page.goto("/runs/first")
    page.click("[data-opens=ask-amend]")
    rate = page.locator("#ask-amend [name='training.learning_rate']")
    rate.fill("7")
    page.click("#ask-amend .primary")
    expect(page.locator("#ask-amend .error-line")).to_have_count(1)
    rate.fill("5e-4")
    page.keyboard.press("Enter")
    expect(page.locator("#ask-amend")).to_be_hidden()
    change = page.locator("[data-amendment='1']")
    expect(change).to_contain_text("Learning rate", timeout=10_000)
    expect(change.locator(".badge")).to_have_text("asked for")
    shipper.ship(LineKind.AMENDED, [5], lambda _: {"sequence": 1})
    expect(change.locator(".pill")).to_have_text("holds from step 5", timeout=10_000)
    shipper.train(range(5, 8))
    expect(page.locator('[data-chart="loss eval_loss"]')).to_have_attribute("data-marks", "5")
    points(page, 7)
    assert [step for step, _ in painted(page)] == list(range(1, 8))
    expect(page.locator('[data-chart="loss eval_loss"] .twin tr', has_text="Learning rate 5e-4")).to_have_count(1)


def test_a_part_that_cannot_be_had_now_leaves_the_page_as_it_is(page: Page, session: Session) -> None:
    queued_run(session)
    page.route("**/status", lambda route: route.fulfill(status=500, body="Internal Server Error"))
    page.goto("/runs/first")
    with page.expect_response("**/status") as answer:
        Shipper(session).train([1])
    assert answer.value.status == 500
    points(page, 1)
    expect(page.locator("#run-status")).to_have_attribute("data-state", "queued")
    page.unroute("**/status")
    page.reload()
    expect(page.locator("#run-status")).to_have_attribute("data-state", "preparing")


def test_the_list_of_runs_moves_by_itself(page: Page, session: Session) -> None:
    queued_run(session)
    page.goto("/runs")
    expect(page.locator("[data-state=queued].pill")).to_have_count(1)
    shipper = Shipper(session)
    shipper.train([1, 2])
    expect(page.locator("[data-cell=loss]")).to_have_text("0.5", timeout=10_000)
    expect(page.locator("[data-state=preparing].pill")).to_have_count(1)


def test_discarding_asks_once_and_can_be_taken_back(page: Page, session: Session) -> None:
    run = queued_run(session)
    page.goto(f"/runs/{run.name}")
    page.click("[data-menu=stop] summary")
    page.click("[data-opens=ask-discard]")
    page.click("#ask-discard [data-closes]")
    expect(page.locator("#run-status")).to_have_attribute("data-state", "queued")
    page.click("[data-menu=stop] summary")
    page.click("[data-opens=ask-discard]")
    page.click("#ask-discard .primary")
    expect(page.locator("#run-status")).to_have_attribute("data-state", "stopped")
    page.get_by_role("button", name="Bring it back").click()
    expect(page.locator("#run-status")).to_have_attribute("data-state", "queued")


def test_a_file_becomes_a_data_set_and_its_learned_tokens_are_inked(
    page: Page, here: Settings, tiny_base: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_base, here.root / "models" / "tiny")
    rows = tmp_path / "owls.jsonl"
    rows.write_text('{"instruction": "Who eats mice?", "output": "The owl."}\n' * 3)
    page.goto("/datasets")
    page.set_input_files("input[type=file]", rows)
    expect(page.locator("[data-as]")).to_have_value("owls")
    page.click("[data-send]")
    page.wait_for_url("**/datasets/owls")
    expect(page.locator("#preview .ink .inked")).to_have_count(3, timeout=30_000)
    first = page.locator("#preview .sample").first
    assert "".join(first.locator(".ink i").all_inner_texts()) == "The owl."
    expect(first.locator(".stamp.inked")).to_have_text("<|im_end|>")


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Escape")
    page.locator("#search").blur()
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/runs")
    page.keyboard.press("n")
    page.wait_for_url("**/runs/new")
