"""The page of a run in a real browser: everything on it that a person can do. A run's journal is shipped by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect
from sqlalchemy.orm import Session

from backend.core import runs
from backend.core.assignment import LineKind, Outcome
from backend.core.errors import Problem
from tests.support.showcase import DEVICE, PLACE, WORKER, Course, Shipper, rich_run
from tests.web.conftest import queued_run

MAIN = '[data-chart="loss eval_loss"]'
NORM = '[data-chart="grad_norm"]'
COURSE = Course(steps=130, total=200, steps_a_pass=100)
LONG = Course(steps=420, total=966)
NOTIFICATIONS = """
  window.told = [];
  window.Notification = class {
    static permission = "default";
    static requestPermission() { this.permission = window.answer ?? "granted"; return Promise.resolve(this.permission); }
    constructor(title) { window.told.push(title); }
  };
"""


@pytest.fixture
def context(context: BrowserContext) -> BrowserContext:
    """A browser without a head shows nobody a notification, so that one part of it stands in for the real one."""
    context.add_init_script(NOTIFICATIONS)
    return context


def steps_shown(page: Page, chart: str = MAIN) -> list[int]:
    table = page.locator(f"{chart} .twin")
    if table.get_attribute("open") is None:
        table.locator("summary").click()
    expect(table.locator("tbody tr")).not_to_have_count(0)
    rows = table.locator("tbody tr")
    return [int(step) for step in rows.evaluate_all("rows => rows.map((row) => row.cells[0].dataset.value)")]


def window_of(page: Page, chart: str = MAIN) -> tuple[int, int]:
    expect(page.locator(chart)).to_have_attribute("data-window", re.compile(r"\d"))
    first, last = (page.locator(chart).get_attribute("data-window") or "").split()
    return int(first), int(last)


def drag(page: Page, start: float, end: float) -> None:
    """Across the main chart, in shares of its width."""
    box = page.locator(f"{MAIN} .u-over").bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], middle, steps=4)
    page.mouse.up()


# ---- charts ---------------------------------------------------------------------------------------------------------


def test_a_drag_narrows_every_chart_down_to_single_steps_and_a_double_click_shows_all(
    page: Page, session: Session
) -> None:
    rich_run(session, "rich", course=COURSE)
    page.goto("/runs/rich")
    steps_shown(page)
    for _ in range(4):
        drag(page, 0.4, 0.6)
    first, last = window_of(page)
    assert last - first <= 3, "as near as single steps"
    assert window_of(page, NORM) == (first, last)
    expect(page.locator(f"{MAIN} tbody tr")).to_have_count(last - first + 1)
    assert steps_shown(page) == list(range(first, last + 1))
    page.locator(f"{MAIN} .u-over").dblclick()
    expect(page.locator(NORM)).to_have_attribute("data-window", "")
    assert steps_shown(page) == list(range(1, 131))


def test_a_thinned_curve_shows_each_step_once_one_looks_closer(page: Page, session: Session) -> None:
    queued_run(session, "huge")
    shipper = Shipper(session)
    shipper.train(range(1, 5001))
    page.goto("/runs/huge")
    coarse = [step for step in steps_shown(page) if 2000 <= step <= 2100]
    drag(page, 0.4, 0.42)
    first, last = window_of(page)
    expect(page.locator(f"{MAIN} tbody tr")).to_have_count(last - first + 1)
    assert steps_shown(page) == list(range(first, last + 1))
    assert len(coarse) < 101


def test_the_keyboard_looks_closer_moves_on_and_reads_values_aloud(page: Page, session: Session) -> None:
    rich_run(session, "rich", course=COURSE)
    page.goto("/runs/rich")
    page.locator(f"{MAIN} .canvas").focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    first, last = window_of(page)
    assert 28 <= last - first <= 36
    page.keyboard.press("Shift+ArrowRight")
    moved = window_of(page)
    assert moved[0] > first
    assert moved[1] - moved[0] == pytest.approx(last - first, abs=2)
    page.keyboard.press("ArrowRight")
    expect(page.locator(f"{MAIN} [data-read-at]")).to_contain_text("at step")
    expect(page.locator("#says")).to_contain_text("Training loss")
    page.keyboard.press("-")
    assert window_of(page)[1] - window_of(page)[0] > last - first
    page.keyboard.press("0")
    expect(page.locator(MAIN)).to_have_attribute("data-window", "")
    assert page.evaluate("() => document.activeElement.className") == "canvas tall"


def test_the_cursor_moves_in_every_chart(page: Page, session: Session) -> None:
    rich_run(session, "rich", course=COURSE)
    page.goto("/runs/rich")
    page.locator(f"{MAIN} .u-over").hover(position={"x": 200, "y": 60})
    place = page.locator(f"{MAIN} [data-read-at]")
    expect(place).to_contain_text("at step")
    expect(page.locator(f"{NORM} [data-read-at]")).to_have_text(place.inner_text())
    step = int(place.inner_text().split()[-1])
    expect(page.locator(f'{NORM} [data-read="grad_norm"]')).to_have_text(f"{COURSE.values(step)['grad_norm']:.4g}")


def test_smoothing_leaves_what_was_measured(page: Page, session: Session) -> None:
    queued_run(session)
    Shipper(session).train(range(1, 9))
    page.goto("/runs/first")
    page.locator("[data-smoothing]").fill("0.99")
    expect(page.locator("[data-chart-tools] output")).to_have_text("0.99")
    steps_shown(page)
    values = page.locator(f"{MAIN} tbody tr").evaluate_all(
        "rows => rows.map((row) => Number(row.cells[1].dataset.value))"
    )
    assert values == [1 / step for step in range(1, 9)]
    expect(page.locator('[data-read="loss"]')).to_have_text("0.125")
    page.reload()
    expect(page.locator("[data-smoothing]")).to_have_value("0.99")


def test_the_foot_shows_passes_or_time_and_the_address_keeps_it(page: Page, session: Session) -> None:
    rich_run(session, "rich", course=COURSE)
    page.goto("/runs/rich")
    page.click("button[data-axis=pass]")
    expect(page.locator(MAIN)).to_have_attribute("data-axis", "pass")
    assert steps_shown(page) == list(range(1, 131))
    expect(page.locator(f"{MAIN} tbody tr").nth(49).locator("td").first).to_have_text("0.5")
    page.click("button[data-axis=time]")
    expect(page.locator(MAIN)).to_have_attribute("data-axis", "time")
    expect(page.locator(f"{MAIN} tbody tr").nth(100).locator("td").first).to_have_text("4 min 50 s")
    drag(page, 0.25, 0.5)
    first, last = window_of(page)
    assert first == pytest.approx(33, abs=4)
    assert last == pytest.approx(66, abs=4)
    page.reload()
    expect(page.locator("button[data-axis=time]")).to_have_attribute("aria-pressed", "true")
    assert "axis=time" in page.url


def test_a_curve_goes_on_by_time_while_the_run_trains(page: Page, session: Session) -> None:
    _, shipper = rich_run(session, "rich", course=COURSE)
    page.goto("/runs/rich?axis=time")
    expect(page.locator(MAIN)).to_have_attribute("data-axis", "time")
    steps_shown(page)
    newest = page.evaluate(
        "async () => (await (await fetch('/api/v1/runs/rich/metrics?names=loss&times=1')).json()).times.at(-1)[1]"
    )
    shipper.ship(LineKind.METRICS, [131], COURSE.told, lambda _step: newest + 60)
    expect(page.locator(f"{MAIN} tbody tr")).to_have_count(131, timeout=10_000)
    last = page.locator(f"{MAIN} tbody tr").last.locator("td").first
    expect(last).to_have_text(re.compile(r"^7 min 1\d s$"))


def test_a_chart_takes_the_whole_width_and_a_logarithmic_scale(page: Page, session: Session) -> None:
    rich_run(session, "rich", course=COURSE)
    page.goto("/runs/rich")
    before = page.locator(NORM).bounding_box()
    page.click(f"{NORM} [data-expand]")
    expect(page.locator(f"{NORM} [data-expand]")).to_have_attribute("aria-pressed", "true")
    after = page.locator(NORM).bounding_box()
    assert before
    assert after
    assert after["width"] > 2.5 * before["width"]
    page.wait_for_function("() => document.querySelector('[data-chart=grad_norm] canvas').clientWidth > 1000")
    page.check("[data-log-scale]")
    assert steps_shown(page) == list(range(1, 131))


def test_the_strip_under_the_chart_moves_what_is_looked_at(page: Page, session: Session) -> None:
    rich_run(session, "rich", course=COURSE)
    page.goto("/runs/rich")
    strip = page.locator(".overview")
    strip.scroll_into_view_if_needed()
    box = strip.bounding_box()
    assert box
    at = [box["x"] + share * box["width"] for share in (0.25, 0.5, 0.375, 0.625)]
    middle = box["y"] + box["height"] / 2
    for start, end in ((at[0], at[1]), (at[2], at[3])):
        page.mouse.move(start, middle)
        page.mouse.down()
        page.mouse.move(end, middle, steps=3)
        page.mouse.up()
    first, last = window_of(page)
    assert first == pytest.approx(65, abs=5)
    assert last == pytest.approx(98, abs=5)
    strip.dblclick()
    expect(page.locator(MAIN)).to_have_attribute("data-window", "")


# ---- samples --------------------------------------------------------------------------------------------------------


def test_samples_are_marked_against_the_column_before_and_prompts_are_turned_over(page: Page, session: Session) -> None:
    rich_run(session, "long", course=LONG)
    page.goto("/runs/long")
    second = page.locator("[data-prompt='1']")
    expect(second).to_be_hidden()
    page.locator("[data-prompt='0'] [data-turn='1']").click()
    expect(second).to_be_visible()
    expect(second.locator("[data-number]")).to_have_text("Prompt 2 of 3")
    assert "prompt=2" in page.url
    assert page.evaluate("() => document.activeElement.dataset.turn") == "1"
    columns = second.locator("li")
    expect(columns).to_have_count(3)
    expect(columns.nth(0).locator("ins, del")).to_have_count(0)
    expect(columns.nth(0).locator("[data-when=length]")).to_be_visible()
    expect(columns.nth(1).locator("del")).to_have_count(0)  # nothing of the first is left: it is one new text
    expect(columns.nth(2).locator("del").first).to_have_text(re.compile("three"))
    expect(columns.nth(2).locator("ins").first).to_have_text(re.compile("four"))
    expect(columns.nth(2).locator("[data-badge=best]")).to_be_visible()
    expect(columns.nth(2).locator("[data-when=stop]")).to_be_visible()


def test_an_answer_that_repeats_itself_is_told_as_it_comes(page: Page, session: Session) -> None:
    queued_run(session)
    shipper = Shipper(session)
    page.goto("/runs/first")
    told = {"index": 0, "prompt": "Where?", "tokens": 9, "finish": "stop"}
    for step, text in (
        (0, "In the depot, I think."),
        (10, "在仓库里。我已为您补发包裹到登记地址。我已为您补发包裹到登记地址。"),
    ):
        answer = told | {"text": text}
        shipper.ship(LineKind.SAMPLE, [step], {step: answer}.__getitem__)
    last = page.locator("[data-samples] li").last
    expect(last.locator("[data-when=loop]")).to_be_visible(timeout=10_000)
    expect(last.locator(".loop").first).to_contain_text("我已为您补发")
    expect(page.locator("[data-samples] li").first.locator("[data-when=stop]")).to_be_visible()


def test_an_answer_that_comes_leaves_what_is_read_and_marked_where_it_is(page: Page, session: Session) -> None:
    queued_run(session)
    shipper = Shipper(session)
    page.set_viewport_size({"width": 600, "height": 800})
    said = iter(range(100))

    def answer(*steps: int, prompt: str = "Where?") -> None:
        for step in steps:
            text = f"It waits in the depot, I think, for the {next(said)} time. "
            told = {"index": 0, "prompt": prompt, "text": text, "tokens": 9, "finish": "stop"}
            shipper.ship(LineKind.SAMPLE, [step], {step: told}.__getitem__)

    page.goto("/runs/first")
    answer(*range(0, 60, 10))
    columns, timeline = page.locator("[data-samples] li"), page.locator("[data-samples] ol")
    expect(columns).to_have_count(6, timeout=10_000)
    end = "(list) => list.scrollWidth - list.clientWidth - list.scrollLeft"
    assert timeline.evaluate(end) < 2, "who looks at the newest goes on with it"
    timeline.evaluate("(list) => { list.scrollLeft = 0; }")
    columns.first.locator("p").evaluate("(text) => getSelection().selectAllChildren(text)")
    answer(60)
    expect(columns).to_have_count(7, timeout=10_000)
    assert "for the 0 time" in page.evaluate("() => getSelection().toString()")
    assert timeline.evaluate("(list) => list.scrollLeft") == 0
    answer(0, prompt="Whither?")
    expect(columns.nth(1).locator("del").first).to_have_text("7")  # marked against the new one before it


def test_answers_that_are_left_out_are_fetched_when_they_are_asked_for_and_again_with_all_that_is_shown(
    page: Page, session: Session
) -> None:
    queued_run(session)
    shipper = Shipper(session)

    def answer(steps: Sequence[int], text: str = "In the depot.") -> None:
        told = {"index": 0, "prompt": "Where?", "text": text, "tokens": 9, "finish": "stop"}
        shipper.ship(LineKind.SAMPLE, steps, lambda step: told | {"text": f"{text} {step}"})

    answer(range(60))
    page.goto("/runs/first")
    columns, link = page.locator("[data-samples] li"), page.locator("[data-earlier]")
    expect(columns).to_have_count(21)
    expect(columns.first.locator("[data-badge=base]")).to_be_visible()
    steps = "(all) => all.map((each) => Number(each.dataset.step))"
    assert columns.evaluate_all(steps) == [0, *range(40, 60)]
    link.click()
    expect(columns).to_have_count(41)
    assert columns.evaluate_all(steps) == [0, *range(20, 60)]
    shipper.rewind(50)
    expect(columns).to_have_count(32, timeout=10_000)
    answer(range(51, 53))
    expect(columns).to_have_count(34, timeout=10_000)
    columns.locator("p").evaluate_all("(all) => all.forEach((each) => { each.closest('li').remove(); })")
    page.evaluate("() => document.dispatchEvent(new Event('back'))")
    expect(columns).to_have_count(33)  # the first was read once
    assert columns.evaluate_all(steps) == [*range(20, 53)]
    link.click()
    expect(columns).to_have_count(52)
    expect(link).to_have_count(0)


# ---- log, note, settings --------------------------------------------------------------------------------------------


def test_the_log_is_searched_while_one_types_and_stays_searched_as_it_grows(page: Page, session: Session) -> None:
    queued_run(session)
    shipper = Shipper(session)
    shipper.ship(LineKind.LOG, [1], lambda _: {"level": "warning", "text": "Row 7 has no answer."})
    shipper.ship(LineKind.LOG, [2], lambda _: {"level": "info", "text": "Row 8 is long."})
    page.goto("/runs/first")
    lines = page.locator("[data-log] > div")
    page.fill("#log-q", "row")
    expect(lines).to_have_count(2)
    shipper.ship(LineKind.LOG, [3], lambda _: {"level": "info", "text": "Row 9 as well."})
    expect(lines).to_have_count(3, timeout=10_000)
    shipper.ship(LineKind.LOG, [4], lambda _: {"level": "info", "text": "Something else."})
    page.select_option("#log-level", "warn")
    expect(lines).to_have_count(1)
    expect(page.locator("#log-q")).to_have_value("row")
    page.fill("#log-q", "zebra")
    expect(page.locator("[data-log]")).to_have_text("No line holds that.")
    page.select_option("#log-level", "")
    page.fill("#log-q", "")
    expect(page.locator("[data-log]")).to_contain_text("Something else.")
    with page.expect_download() as got:
        page.get_by_role("link", name="All of it").click()
    assert "Row 7 has no answer." in Path(got.value.path()).read_text()


def test_a_note_is_seen_at_once_in_another_tab(context: BrowserContext, session: Session) -> None:
    queued_run(session)
    first, second = context.new_page(), context.new_page()
    for tab in (first, second):
        tab.goto("/runs/first")
        expect(tab.locator("[data-connection]")).to_be_hidden()
    first.fill("#note", "Too many passes.")
    first.locator("#note").press("Control+Enter")
    expect(second.locator("#note")).to_have_value("Too many passes.", timeout=10_000)
    second.fill("#note", "never sent")
    second.locator("#note").press("Escape")
    expect(second.locator("#note")).to_have_value("Too many passes.")
    second.reload()
    expect(second.locator("#note")).to_have_value("Too many passes.")


def lose_a_note(page: Page) -> None:
    page.goto("/runs/first")
    expect(page.locator("[data-connection]")).to_be_hidden()
    page.route("**/runs/first/note", answer_unless_posted)
    page.fill("#note", "Too many passes.")
    page.locator("#note").blur()
    expect(page.locator("[data-lost]")).to_be_visible()


def answer_unless_posted(route: Route) -> None:
    if route.request.method == "POST":
        route.fulfill(status=503, body="Service Unavailable")
    else:
        route.continue_()


def test_a_lost_note_does_not_go_over_one_that_somebody_else_wrote_meanwhile(page: Page, session: Session) -> None:
    run = queued_run(session)
    lose_a_note(page)
    runs.write_note(session, run.id, "Stop at step 9.")
    session.commit()
    page.unroute("**/runs/first/note")
    page.wait_for_timeout(5000)  # the event came, and the studio is said to answer again
    session.refresh(run)
    assert run.note == "Stop at step 9."
    expect(page.locator("#note")).to_have_value("Too many passes.")
    expect(page.locator("[data-lost]")).to_be_visible()
    page.locator("#note").press("Escape")
    expect(page.locator("#note")).to_have_value("Stop at step 9.")


def test_a_lost_note_that_is_taken_back_is_not_sent_again(page: Page, session: Session) -> None:
    run = queued_run(session)
    lose_a_note(page)
    page.locator("#note").press("Escape")
    expect(page.locator("[data-lost]")).to_be_hidden()
    page.unroute("**/runs/first/note")
    runs.write_note(session, run.id, "Stop at step 9.")
    session.commit()
    expect(page.locator("#note")).to_have_value("Stop at step 9.", timeout=15_000)
    session.refresh(run)
    assert run.note == "Stop at step 9."


def test_what_a_lost_answer_held_is_asked_for_again_and_a_lost_note_is_told_and_sent_again(
    page: Page, session: Session
) -> None:
    queued_run(session)
    for part in ("log?*", "history", "note"):
        page.route(
            f"**/runs/first/{part}", lambda route: route.fulfill(status=503, body="Service Unavailable"), times=1
        )
    page.goto("/runs/first")
    page.fill("#note", "Too many passes.")
    page.locator("#note").blur()
    expect(page.locator("#run-note")).to_contain_text("Not saved yet")
    shipper = Shipper(session)
    shipper.ship(LineKind.LOG, [1], lambda _: {"level": "warning", "text": "Row 7 has no answer."})
    shipper.ship(LineKind.CHECKPOINT, [1], lambda _: {"folder": "c", "manifest_sha256": "0" * 64, "bytes": 9})
    expect(page.locator("[data-log]")).to_contain_text("Row 7 has no answer.", timeout=15_000)
    expect(page.locator("[data-checkpoint='1']")).to_be_visible(timeout=15_000)
    expect(page.locator("[data-lost]")).to_be_hidden(timeout=15_000)
    page.reload()
    expect(page.locator("#note")).to_have_value("Too many passes.")


def test_settings_are_all_there_and_the_recipe_is_downloaded(page: Page, session: Session) -> None:
    parent, _ = rich_run(session, "parent", course=COURSE, ends=Outcome.DONE)
    rich_run(session, "child", parent=parent, course=Course(steps=60, total=200, rate=1e-5))
    page.goto("/runs/child")
    expect(page.locator("[data-differences] tbody tr")).to_have_count(1)
    page.click("[data-all-settings] summary")
    expect(page.locator("[data-all-settings] tbody tr")).to_have_count(41)
    page.click("[data-yaml] summary")
    expect(page.locator("[data-yaml] pre")).to_contain_text("learning_rate: 1.0e-05")
    with page.expect_download() as got:
        page.locator("#configuration a[download]").click()
    assert got.value.suggested_filename == "child.yaml"


# ---- acts -----------------------------------------------------------------------------------------------------------


def test_acts_say_what_follows_and_the_menu_stays_open_while_the_run_moves(page: Page, session: Session) -> None:
    _, shipper = rich_run(session, "rich", course=COURSE)
    page.goto("/runs/rich")
    page.click("[data-menu=stop] summary")
    shipper.ship(LineKind.CHECKPOINT, [130], lambda _: {"folder": "c", "manifest_sha256": "0" * 64, "bytes": 9})
    expect(page.locator("[data-checkpoint='130']")).to_be_visible(timeout=10_000)
    expect(page.locator("[data-menu=stop] .menu")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("[data-menu=stop] .menu")).to_be_hidden()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("[data-next]")).to_have_text("It finishes this step, saves, and frees the accelerator.")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("[data-next]")).to_have_text("You can close this page. The run goes on.")
    page.click("[data-menu=stop] summary")
    page.click("[data-opens=ask-stop]")
    page.click("#ask-stop .primary")
    expect(page.locator("[data-next]")).to_contain_text("makes the adapter and the merged model.")
    shipper.ship(LineKind.PHASE, [130], lambda _: {"phase": "exporting", "text": ""})
    shipper.ship(LineKind.PROGRESS, [130], lambda _: {"what": "Merged model", "done": 25, "total": 100})
    expect(page.locator("[data-making-share]")).to_have_text("25 %", timeout=10_000)
    shipper.ship(LineKind.PROGRESS, [130], lambda _: {"what": "Merged model", "done": 60, "total": 100})
    expect(page.locator("[data-making-share]")).to_have_text("60 %", timeout=10_000)
    shipper.end(Outcome.DONE)
    expect(page.locator("#run-status")).to_have_attribute("data-state", "stopped", timeout=10_000)
    expect(page.locator("[data-making-share]")).to_have_count(0)


def test_a_discarded_run_comes_back(page: Page, session: Session) -> None:
    queued_run(session)
    page.goto("/runs/first")
    page.click("[data-menu=stop] summary")
    page.click("[data-opens=ask-discard]")
    page.click("#ask-discard .primary")
    expect(page.locator("[data-next]")).to_have_text("It can be brought back for 24 hours.")
    page.get_by_role("button", name="Bring it back").click()
    expect(page.locator("#run-status")).to_have_attribute("data-state", "queued")


def test_a_remedy_fills_the_form_of_a_clone(page: Page, session: Session) -> None:
    rich_run(session, "long")
    page.goto("/runs/long")
    page.click("[data-remedy=passes]")
    page.wait_for_url("**/runs/new?clone=long**")
    expect(page.locator("[name='training.num_train_epochs']")).to_have_value("1.4")


# ---- without looking ------------------------------------------------------------------------------------------------


def test_the_title_and_the_ruler_follow_the_run_to_its_end(page: Page, session: Session) -> None:
    _, shipper = rich_run(session, "rich", course=COURSE)
    page.goto("/runs/rich")
    expect(page).to_have_title(re.compile("^65 % · rich"))
    shipper.ship(LineKind.METRICS, range(131, 151), COURSE.told)
    expect(page).to_have_title(re.compile("^75 % · rich"), timeout=10_000)
    expect(page.locator("[data-progress]")).to_have_attribute("aria-valuenow", "150")
    expect(page.locator("[data-pass]")).to_have_text("pass 1.50 of 2")
    expect(page.locator("[data-left]")).to_contain_text("left, done near")
    shipper.ship(LineKind.PROGRESS, [150], lambda _: {"what": "evaluating", "done": 40, "total": 272})
    expect(page.locator("[data-doing]")).to_have_text("measuring 14 %", timeout=10_000)
    shipper.ship(LineKind.METRICS, [151], COURSE.told)
    expect(page.locator("[data-at]")).to_be_hidden(timeout=10_000)
    page.reload()
    expect(page.locator("[data-at]")).to_be_hidden()
    shipper.end(Outcome.DONE)
    expect(page).to_have_title(re.compile("^✓ rich"), timeout=10_000)


def test_the_page_of_a_run_that_waits_fills_up_as_it_begins(page: Page, session: Session) -> None:
    before, _ = rich_run(session, "rich", course=COURSE, ends=Outcome.DONE)
    waiting = queued_run(session)
    waiting.model = before.model
    session.commit()
    page.goto("/runs/first?lang=zh")
    expect(page.locator("#run-memory")).to_be_hidden()
    shipper = Shipper(session, worker=WORKER, device=DEVICE, place=PLACE, run_id=waiting.id)
    shipper.ship(LineKind.FACTS, [0], lambda _: {"total_steps": 40})
    shipper.ship(LineKind.PHASE, [0], lambda _: {"phase": "training"})
    expect(page.locator("#run-memory")).to_be_visible(timeout=10_000)
    shipper.ship(LineKind.METRICS, [1], COURSE.told)
    expect(page.locator("[data-read=learning_rate_ahead]")).not_to_have_text("–", timeout=10_000)
    log = page.locator("[data-log]")
    shipper.ship(
        LineKind.LOG, [1], lambda _: {"level": "warning", "text": "Step 1 was not saved: weights are not finite."}
    )
    expect(log).to_contain_text("第 1 步没有保存：权重不是有限值。", timeout=10_000)
    message = "The loss or its gradients were not finite in 3 steps in a row (steps 24 to 26)."
    shipper.end(Outcome.FAILED, Problem("nan", message))
    expect(log).to_contain_text("失败：损失或梯度连续 3 步不是有限值（第 24 至 26 步）。", timeout=10_000)
    expect(page.locator("#run-status .finding.bad h2")).to_have_text(
        "损失或梯度连续 3 步不是有限值（第 24 至 26 步）。"
    )


def test_the_browser_tells_when_the_run_ends(page: Page, session: Session) -> None:
    _, shipper = rich_run(session, "rich", course=COURSE)
    page.goto("/runs/rich")
    bell = page.locator("[data-notify]")
    bell.click()
    expect(bell).to_have_text("You will be told")
    page.reload()
    page.evaluate("() => { Notification.permission = 'granted'; }")
    shipper.ship(LineKind.CHECKPOINT, [130], lambda _: {"folder": "c", "manifest_sha256": "0" * 64, "bytes": 9})
    expect(bell).to_have_attribute("aria-pressed", "true", timeout=10_000)
    shipper.end(Outcome.DONE)
    expect(bell).to_have_count(0, timeout=10_000)
    assert page.evaluate("() => told") == ["rich: Succeeded"]


def test_a_browser_that_refuses_says_so(page: Page, session: Session) -> None:
    queued_run(session)
    page.add_init_script("window.answer = 'denied'")
    page.goto("/runs/first")
    page.click("[data-notify]")
    expect(page.locator("[data-notify]")).to_have_text("The browser refuses to tell you")
    expect(page.locator("[data-notify]")).to_be_disabled()
