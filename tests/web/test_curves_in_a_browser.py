"""What a chart paints of a curve that has more points than the chart has room for."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.scripts import bundled

Pairs = list[tuple[int, float | str]]
STEPS, PIXELS = 30_000, 700
SCRIPT = """
import { align, Curve, picture } from "./frontend/src/curves.ts";
window.curve = (pairs) => new Curve(pairs);
window.painted = ([curves, pixels, window]) => {
  const columns = curves.map((pairs) => new Curve(pairs)).map(({ steps, values }) => ({ xs: steps, values }));
  return picture(align(columns), pixels, window ?? undefined);
};
"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    page = browser.new_page()
    page.add_script_tag(content=bundled(SCRIPT))
    return page


def noisy(seed: int, steps: int = STEPS) -> Pairs:
    """A curve with spikes of one step, up and down, and gaps."""
    chance = random.Random(seed)
    spikes = {chance.randrange(steps): value for value in (99.0, -99.0, "NaN") for _ in range(40)}
    return [(step, spikes.get(step, chance.gauss(1, 0.1))) for step in range(steps)]


def painted(page: Page, curves: Sequence[Pairs], window: tuple[float, float] | None = None) -> list[list[Any]]:
    columns: list[list[Any]] = page.evaluate("asked => painted(asked)", [curves, PIXELS, window])
    return columns


def by_column(pairs: Pairs, window: tuple[float, float]) -> Mapping[int, Pairs]:
    """The points in each column of pixels, with one before and one behind the window."""
    first, last = window
    edges = [first + column / PIXELS * (last - first) for column in range(PIXELS + 1)]
    columns = defaultdict(list)
    for step, value in pairs:
        columns[bisect_right(edges, step)].append((step, value))
    return columns


def shape(pairs: Pairs) -> dict[str, Any]:
    """What of a column of pixels can be seen."""
    numbers = [value for _, value in pairs if isinstance(value, float)]
    gaps = [step for step, value in pairs if not isinstance(value, float)]
    return {"ends": (pairs[0], pairs[-1]), "low": min(numbers), "high": max(numbers), "gaps": gaps}


@pytest.mark.parametrize("window", [(0, STEPS - 1), (7_000.5, 9_111.25), (29_990, 29_999), (-500, 40_000)])
def test_in_each_column_of_pixels_every_extreme_and_every_gap_is_painted(
    page: Page, window: tuple[float, float]
) -> None:
    pairs = noisy(3)
    steps, values = painted(page, [pairs], window)
    shown: Pairs = [(step, "NaN" if value is None else float(value)) for step, value in zip(steps, values, strict=True)]
    assert len(shown) <= 4 * (PIXELS + 2) + 40
    whole, thin = by_column(pairs, window), by_column(shown, window)
    assert {column: shape(inside) for column, inside in thin.items()} == {
        column: shape(inside) for column, inside in whole.items()
    }


def test_a_line_of_few_points_beside_one_of_many_keeps_each_of_them(page: Page) -> None:
    seldom: Pairs = [(step, 1 + 1 / step) for step in range(1, STEPS, 100)]
    steps, many, few = painted(page, [noisy(4), seldom])
    assert len(many) < STEPS / 5
    assert [(step, value) for step, value in zip(steps, few, strict=True) if value is not None] == seldom


def test_a_curve_that_has_room_is_painted_whole(page: Page) -> None:
    pairs = noisy(5, 6_000)
    steps, values = painted(page, [pairs])
    assert steps == list(range(6_000))
    assert values == [None if value == "NaN" else value for _, value in pairs]


def test_points_in_any_order_make_one_curve_in_which_the_newer_of_a_step_counts(page: Page) -> None:
    pairs: Pairs = [(1, 1.0), (2, 2.0), (5, "Infinity"), (3, 3.0), (2, 2.5), (9, 9.0)]
    curve = page.evaluate("pairs => curve(pairs)", pairs)
    assert curve["steps"] == [1, 2, 3, 5, 9]
    assert [value for value in curve["values"] if not math.isnan(value)] == [1.0, 2.5, 3.0, 9.0]
