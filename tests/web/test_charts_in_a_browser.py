"""When a live chart draws what it was told: at the next frame, but for the rest that dear drawings and readers ask for."""

from __future__ import annotations

from typing import Literal

from playwright.sync_api import Browser, Page

from tests.support.scripts import bundled

FRAME_MS, STEPS = 20, 8
SCRIPT = """
import { Chart } from "./frontend/src/chart.ts";
const figure = document.querySelector("figure");
const chart = new Chart(figure, [{ key: "loss", label: "Loss", colour: 1 }], { loss: [] }, async () => ({}));
let dear = 0;
const now = performance.now.bind(performance);
const fill = CanvasRenderingContext2D.prototype.clearRect; // every drawing begins with it
CanvasRenderingContext2D.prototype.clearRect = function (...area) {
  dear += window.cost;
  fill.apply(this, area);
};
performance.now = () => now() + dear;
window.cost = 0;
window.put = (step) => chart.put("loss", step, 1 / step);
"""


def drawn_by(browser: Browser, *, cost: int = 0, motion: Literal["reduce"] | None = None) -> list[int]:
    """The points that a chart has drawn after each frame, when each brings one. The page's clock stands still but for what a
    drawing is said to cost, in milliseconds."""
    page = browser.new_page(reduced_motion=motion)
    page.clock.install(time=0)
    page.set_content('<figure class="chart"><div class="canvas" style="height:200px;width:400px"></div></figure>')
    page.add_script_tag(content=bundled(SCRIPT))
    page.clock.pause_at(10_000)
    page.evaluate("cost => { window.cost = cost }", cost)
    drawn = [step_drawn(page, step) for step in range(1, STEPS + 1)]
    page.clock.run_for(2_000)
    assert points(page) == STEPS, "what was told last was never drawn"
    page.close()
    return drawn


def step_drawn(page: Page, step: int) -> int:
    page.evaluate("step => put(step)", step)
    page.clock.run_for(FRAME_MS)
    return points(page)


def points(page: Page) -> int:
    return int(page.get_attribute("figure", "data-points") or 0)


def test_each_value_is_drawn_at_the_next_frame(browser: Browser) -> None:
    assert drawn_by(browser) == list(range(1, STEPS + 1))


def test_a_chart_that_is_dear_to_draw_rests_for_a_tenth_of_a_second_and_no_longer(browser: Browser) -> None:
    drawn = drawn_by(browser, cost=200)
    assert drawn[:5] == [1] * 5
    assert drawn[-1] > 5


def test_for_who_asked_for_less_motion_a_chart_rests_a_second(browser: Browser) -> None:
    assert drawn_by(browser, motion="reduce") == [1] * STEPS
