"""Curves as a page paints them and as Postgres holds them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from playwright.sync_api import Page, expect
from sqlalchemy import create_engine, func, select

from backend.core.db import driver_url
from backend.core.models import Point, Run
from backend.embedded.postgres import Postgres
from tests.support.studios import Studio

CHARTS = ("loss eval_loss", "grad_norm", "learning_rate")
TABLE_ROWS, FETCHED_POINTS = 500, 1000
"""The most rows of a table, and the most points of a curve that a page gets whole."""
FORETOLD = "learning_rate"
"""What is to come of it is a line of the same chart, and takes rows of its table."""
Curves = dict[str, list[tuple[int, float]]]


def points_reach(page: Page, count: int, *, seconds: float = 60) -> None:
    """Wait until the main chart holds so many points or more."""
    page.wait_for_function(
        "([chart, count]) => Number(document.querySelector(`[data-chart='${chart}']`)?.dataset.points ?? 0) >= count",
        arg=[CHARTS[0], count],
        timeout=seconds * 1000,
    )


def painted_points(page: Page) -> int:
    """How many points the main chart holds now."""
    return int(page.locator(f'[data-chart="{CHARTS[0]}"]').get_attribute("data-points") or 0)


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


def stored_steps(studio: Studio, run: str) -> int:
    """How many losses Postgres holds now."""
    engine = create_engine(driver_url(Postgres(studio.home).url))
    with engine.connect() as connection:
        query = select(func.count()).select_from(Point).join(Run, Run.id == Point.run_id)
        count = connection.execute(query.where(Run.name == run, Point.name == "loss")).scalar_one()
    engine.dispose()
    return int(count)


def assert_stored(curves: Curves, studio: Studio, run: str, *, is_whole: bool) -> None:
    """What is painted is stored, to the last digit; `is_whole`: and nothing more is."""
    held = stored(studio, run)
    for chart in CHARTS:
        names = chart.split()
        ours = {name: curves[name] for name in names}
        last = math.inf if is_whole else max((points[-1][0] for points in ours.values() if points), default=0)
        due = {name: [point for point in held[name] if point[0] <= last] for name in names}
        assert_told(ours, due)


def assert_told(told: Curves, due: Curves) -> None:
    """A table tells the curves of one chart: whole, or by rows spread evenly from the first step to the last. Of a curve that is
    so long that the page gets only its extremes, and of one that goes on into what is to come, it tells some of the steps."""
    steps = sorted({step for points in due.values() for step, _ in points})
    rows = sorted({step for points in told.values() for step, _ in points})
    if len(steps) > FETCHED_POINTS:
        assert len(rows) == TABLE_ROWS or FORETOLD in due, "a long curve"
    elif FORETOLD not in due or len(rows) == len(steps):
        rows = spread(steps)
    else:
        are_even(rows, steps)
    for name, points in due.items():
        assert told[name] == [point for point in points if point[0] in rows], name


def are_even(rows: Sequence[int], steps: Sequence[int]) -> None:
    """Rows that leave out steps start with the first, and leave out as many each time, or one more or less."""
    places = [steps.index(row) for row in rows]
    apart = {after - before for before, after in pairwise(places)}
    assert places[:1] == [0], "the first step"
    assert max(apart) - min(apart) <= 1, "rows are spread evenly"
    assert len(steps) - places[-1] <= max(apart), "the last step"


def spread(steps: Sequence[int]) -> list[int]:
    """Which steps a table has room for."""
    if len(steps) <= TABLE_ROWS:
        return list(steps)
    apart = (len(steps) - 1) / (TABLE_ROWS - 1)
    return [steps[math.floor(row * apart + 0.5)] for row in range(TABLE_ROWS)]


def assert_continues(curves: Curves, before: Curves) -> None:
    for name, points in before.items():
        assert curves[name][: len(points)] == points, f"{name} after a reload"


def marks(page: Page) -> str:
    """The steps that the main chart marks."""
    return re.sub(r"\s+", " ", page.locator(f'[data-chart="{CHARTS[0]}"]').get_attribute("data-marks") or "none")
