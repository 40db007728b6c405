"""Comparing in a real browser: what is painted is what the database holds, live, for every run."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import APIResponse, BrowserContext, Page, Route, expect
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core import runs
from backend.core.assignment import LineKind
from backend.core.models import Point, Run
from backend.core.recipe import read_recipe
from tests.support.showcase import Shipper
from tests.web.conftest import RECIPE


def started(session: Session, name: str, **changes: Any) -> tuple[Run, Shipper]:
    run = runs.create(
        session,
        recipe=read_recipe(RECIPE | changes | {"name": name}).recipe,
        model={"path": "tiny", "revision": None},
        data=[{"name": "letters", "version": 1, "rows": 3}],
    )
    session.commit()
    return run, Shipper(session, device=name)


def learn(shipper: Shipper, steps: range, loss: float) -> None:
    """Steps of 100 tokens and half a second, five to a pass; at the last one a measurement and an answer."""
    shipper.ship(
        LineKind.METRICS,
        steps,
        lambda step: {"values": {"loss": loss + 1 / step, "trained_tokens": 100 * step}, "epoch": step / 5},
    )
    last = steps[-1]
    shipper.ship(LineKind.METRICS, [last], lambda _: {"values": {"eval_loss": loss}, "epoch": last / 5})
    for index, prompt in enumerate(("Who?", "Where?")):
        text = f"The owl sits {'in the oak' if loss < 1 else 'on the roof'} at step {last}."
        answer = {"index": index, "prompt": prompt, "text": text, "tokens": 5, "finish": "stop"}
        shipper.ship(LineKind.SAMPLE, [last], lambda _, answer=answer: answer)  # type: ignore[misc]


@pytest.fixture
def pair(session: Session) -> tuple[tuple[Run, Shipper], tuple[Run, Shipper]]:
    first = started(session, "owl-r8", method={"kind": "lora", "r": 8})
    learn(first[1], range(1, 6), 1.5)
    second = started(session, "owl-r16", method={"kind": "lora", "r": 16})
    learn(second[1], range(1, 4), 1.75)
    return first, second


ADDRESS = "/compare?run=owl-r8&run=owl-r16"


def chart(page: Page, name: str) -> Any:
    return page.locator(f'[data-chart^="{name}@"]')


def painted(page: Page, name: str) -> list[list[str]]:
    """The rows of a chart's table: where on the axis, then each run's value."""
    table = chart(page, name).locator(".twin")
    if table.get_attribute("open") is None:
        table.locator("summary").click()
    expect(table.locator("tbody tr")).not_to_have_count(0)
    rows: list[list[str]] = table.locator("tbody tr").evaluate_all(
        "rows => rows.map((row) => [row.cells[0].textContent, ...[...row.cells].slice(1).map((cell) => cell.dataset.value)])"
    )
    return rows


def stored(session: Session, run: Run, name: str) -> list[float]:
    query = select(Point.value).where(Point.run_id == run.id, Point.name == name).order_by(Point.step)
    return list(session.scalars(query))


def test_curves_of_both_runs_are_what_the_database_holds_and_move_live(
    page: Page, session: Session, pair: tuple[tuple[Run, Shipper], tuple[Run, Shipper]]
) -> None:
    (first, _), (second, shipper) = pair
    page.goto(ADDRESS)
    expect(chart(page, "loss")).to_have_attribute("data-points", "5")
    expect(page.locator("#verdict-title")).to_have_text("owl-r8 is best so far, by 0.25")
    learn(shipper, range(4, 10), 0.5)
    expect(chart(page, "loss")).to_have_attribute("data-points", "9", timeout=10_000)
    rows = painted(page, "loss")
    for column, run in ((1, first), (2, second)):
        assert [float(row[column]) for row in rows if row[column]] == stored(session, run, "loss")
    expect(page.locator("#verdict-title")).to_have_text("owl-r16 is best so far, by 1", timeout=10_000)
    expect(page.locator("[data-measure=eval_loss] .win")).to_contain_text("0.5")


def test_a_run_that_went_back_is_painted_as_it_was_trained(
    page: Page, session: Session, pair: tuple[tuple[Run, Shipper], tuple[Run, Shipper]]
) -> None:
    (_, _), (second, shipper) = pair
    page.goto(ADDRESS)
    expect(chart(page, "loss")).to_have_attribute("data-points", "5")
    shipper.rewind(2)
    learn(shipper, range(3, 9), 0.25)
    expect(chart(page, "loss")).to_have_attribute("data-points", "8", timeout=10_000)
    assert [float(row[2]) for row in painted(page, "loss") if row[2]] == stored(session, second, "loss")


def test_a_late_answer_erases_nothing_and_a_lost_one_is_asked_for_again(
    page: Page, session: Session, pair: tuple[tuple[Run, Shipper], tuple[Run, Shipper]]
) -> None:
    (_, _), (second, shipper) = pair
    curves, late = "**/metrics?names=eval_loss*", list[tuple[Route, APIResponse]]()
    page.route(curves, lambda route: route.fulfill(status=503, body="Service Unavailable"), times=2)
    page.goto(ADDRESS)
    expect(chart(page, "loss")).to_have_attribute("data-points", "5", timeout=10_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/metrics?names=eval_loss" in request.url else None)
    page.route(curves, lambda route: late.append((route, route.fetch())), times=2)
    with page.expect_request(curves):
        shipper.rewind(2)
    learn(shipper, range(3, 8), 0.25)
    expect(chart(page, "loss")).to_have_attribute("data-points", "7", timeout=10_000)
    shipper.rewind(6)
    learn(shipper, range(7, 10), 0.125)
    expect(chart(page, "loss")).to_have_attribute("data-points", "9", timeout=10_000)
    assert len(asked) == len(late) == 2, "one answer a run at a time"
    page.route(curves, lambda _: None)
    with page.expect_request(curves):  # what was missed meanwhile, once these are there
        for route, answer in late:
            route.fulfill(response=answer)
    page.wait_for_timeout(300)  # long enough to draw what came
    assert [float(row[2]) for row in painted(page, "loss") if row[2]] == stored(session, second, "loss")


def test_curves_that_grew_too_long_are_fetched_anew_once(
    page: Page, pair: tuple[tuple[Run, Shipper], tuple[Run, Shipper]]
) -> None:
    (_, shipper), _ = pair
    asked: list[str] = []

    def lengthen(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) > 2:
            return  # on its way for long
        answer = route.fetch()
        told = answer.json()
        told["curves"]["loss"] = [[step, 1.5] for step in range(1, 6001)]
        route.fulfill(response=answer, json=told)

    page.route("**/metrics?names=eval_loss*", lengthen)
    page.goto(ADDRESS)
    expect(chart(page, "loss")).to_have_attribute("data-points", "6000")
    for step in range(6001, 6004):
        learn(shipper, range(step, step + 1), 1.5)
        expect(chart(page, "loss")).to_have_attribute("data-points", str(step), timeout=10_000)
    assert len(asked) == 2 + 2, "one answer a run"


@pytest.mark.usefixtures("pair")
def test_curves_that_were_refused_are_asked_for_again(page: Page) -> None:
    page.route("**/metrics?names=eval_loss*", lambda route: route.fulfill(status=429, json={}), times=1)
    page.goto(ADDRESS)
    expect(chart(page, "loss")).to_have_attribute("data-points", "5", timeout=15_000)


@pytest.mark.usefixtures("pair")
def test_runs_are_laid_along_passes_time_and_tokens(page: Page) -> None:
    page.goto(ADDRESS)
    expect(chart(page, "loss")).to_have_attribute("data-points", "5")
    for axis, first, last in (("pass", "0.2", "1"), ("tokens", "100", "500"), ("step", "1", "5")):
        page.click(f"button[data-axis={axis}]")
        expect(page.locator(f"button[data-axis={axis}]")).to_have_attribute("aria-pressed", "true")
        expect(chart(page, "loss")).to_have_attribute("data-axis", axis)
        rows = painted(page, "loss")
        assert (rows[0][0], rows[-1][0]) == (first, last)
    page.click("button[data-axis=time]")
    expect(chart(page, "loss")).to_have_attribute("data-axis", "time")
    page.goto(f"{ADDRESS}&axis=tokens")
    expect(page.locator("button[data-axis=tokens]")).to_have_attribute("aria-pressed", "true")


def test_answers_are_inked_where_they_differ_and_turned_by_prompt_and_step(
    page: Page, pair: tuple[tuple[Run, Shipper], tuple[Run, Shipper]]
) -> None:
    (_, first), (_, second) = pair
    learn(second, range(4, 6), 0.5)
    learn(first, range(6, 8), 1.25)
    page.goto(ADDRESS)
    answers = page.locator("#samples li")
    expect(answers.nth(0).locator("ins")).to_have_count(0)
    expect(answers.nth(1).locator("ins").first).to_have_text("in the oak")
    page.click("#next-prompt")
    expect(page.locator("#samples .asked")).to_have_text("Where?")
    page.select_option("#samples-at", "5")
    expect(answers.nth(0)).to_contain_text("at step 5")
    expect(answers.nth(1)).to_contain_text("at step 5")
    expect(page.locator("#samples .asked")).to_have_text("Where?")
    page.select_option("#samples-at", "best")
    expect(answers.nth(0)).to_contain_text("at step 7")
    expect(answers.nth(1).locator("ins").first).to_be_visible()
    page.reload()
    expect(page.locator("#samples-at")).to_have_value("best")
    page.click("#earlier-prompt")
    expect(page.locator("#samples .asked")).to_have_text("Who?")


@pytest.mark.usefixtures("pair")
def test_settings_are_shown_as_differences_or_all(page: Page) -> None:
    page.goto(ADDRESS)
    expect(page.locator("[data-setting='method.r'] ins")).to_have_text("16")
    expect(page.locator("[data-setting='training.seed']")).to_have_count(0)
    page.locator("#settings").get_by_role("link", name="All").click()
    expect(page.locator("[data-setting='training.seed'] ins")).to_have_count(0)
    expect(page.locator("[data-setting='training.seed']")).to_have_count(1)
    page.locator("#settings").get_by_role("link", name="Differences").click()
    expect(page.locator("[data-setting='training.seed']")).to_have_count(0)


@pytest.mark.usefixtures("pair")
def test_runs_are_chosen_added_and_left_out(page: Page, context: BrowserContext, session: Session) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    started(session, "badger")
    page.goto("/compare")
    for name in ("owl-r8", "owl-r16"):
        page.get_by_role("checkbox", name=name).check()
    page.get_by_role("button", name="Compare the chosen ones").click()
    expect(page.locator("[data-compared]")).to_have_count(2)
    page.click("[data-opens=add-run]")
    page.fill("#add-q", "badg")
    expect(page.locator("#candidates li")).to_have_count(1)
    page.locator("#candidates a").click()
    expect(page.locator("[data-compared]")).to_have_count(3)
    page.click("[data-copy-address]")
    link = page.evaluate("() => navigator.clipboard.readText()")
    page.get_by_role("link", name="Leave badger out").click()
    expect(page.locator("[data-compared]")).to_have_count(2)
    page.goto(link)
    expect(page.locator("[data-compared]")).to_have_count(3)
    page.get_by_role("link", name="Clone it").click()
    page.wait_for_url("**/runs/new?clone=owl-r8**")


@pytest.mark.parametrize(("language", "width", "theme"), [("zh", 390, "dark"), ("en", 1024, "light")])
def test_six_runs_fit_every_screen(page: Page, session: Session, language: str, width: int, theme: Any) -> None:
    names = [f"a run with a rather long name {number}" for number in range(6)]
    for name in names:
        learn(started(session, name)[1], range(1, 3), 1.5)
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=theme)
    page.goto("/compare?" + "&".join(f"run={name}" for name in names) + f"&settings=all&lang={language}")
    expect(page.locator("[data-compared]")).to_have_count(6)
    expect(chart(page, "loss")).to_have_attribute("data-points", "2")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    page.goto(f"/compare?lang={language}")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
