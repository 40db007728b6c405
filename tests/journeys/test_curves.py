"""What a table may leave out of a long curve, and what it may not."""

from __future__ import annotations

import pytest

from tests.journeys.curves import Curves, assert_told, spread


def curve(steps: range) -> Curves:
    return {"loss": [(step, 1 / step) for step in steps], "eval_loss": [(step, 2.0) for step in steps[::100]]}


def in_rows(whole: Curves, rows: list[int]) -> Curves:
    return {name: [point for point in points if point[0] in rows] for name, points in whole.items()}


@pytest.mark.parametrize("count", [0, 1, 2, 500, 501, 737, 1000])
def test_a_curve_is_told_whole_or_by_rows_that_are_spread_evenly(count: int) -> None:
    whole = curve(range(1, count + 1))
    rows = spread(list(range(1, count + 1)))
    assert (len(rows), rows[:1], rows[-1:]) == (min(count, 500), [1][:count], [count][:count])
    assert_told(in_rows(whole, rows), whole)


def test_a_curve_that_goes_on_into_what_is_to_come_is_told_by_even_rows() -> None:
    whole: Curves = {"learning_rate": [(step, 1 / step) for step in range(1, 401)]}
    both = spread(list(range(1, 701)))
    told = in_rows(whole, both)
    assert 250 < len(told["learning_rate"]) < 300
    assert_told(told, whole)
    rates = told["learning_rate"]
    for broken in (rates[1:], rates[:-3], rates[:50] + rates[53:], [*rates[:5], (rates[5][0], 9.0), *rates[6:]]):
        with pytest.raises(AssertionError):
            assert_told({"learning_rate": broken}, whole)


@pytest.mark.parametrize("count", [20, 600, 2000])
def test_a_row_that_is_missing_or_tells_another_value_is_found(count: int) -> None:
    whole = curve(range(1, count + 1))
    told = in_rows(whole, spread(list(range(1, count + 1))))
    assert_told(told, whole)
    losses = told["loss"]
    for broken in (losses[:-1], losses[1:], losses[:5] + losses[6:], [*losses[:5], (losses[5][0], 9.0), *losses[6:]]):
        with pytest.raises(AssertionError):
            assert_told(told | {"loss": broken}, whole)
