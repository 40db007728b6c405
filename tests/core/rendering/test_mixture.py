from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from backend.core.rendering.mixture import draw, hold_back, lot
from tests.core.rendering.data import talk, talks


def test_a_rows_lot_depends_on_what_it_says_and_not_on_its_place() -> None:
    row = talk(1, "Hi?", "Ho.")
    assert lot(row, 1) == lot(replace(row, number=99), 1)
    assert lot(row, 1) != lot(row, 2)
    assert lot(row, 1) != lot(talk(1, "Hi?", "Ho!"), 1)


def test_lots_are_spread_evenly() -> None:
    held = sum(lot(row, 3) < 0.2 for row in talks(2000))
    assert 340 < held < 460


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=20), st.floats(0, 0.5))
def test_something_is_always_left_to_train_on(lots: list[float], share: float) -> None:
    assert not all(hold_back(lots, share))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 9), st.data())
def test_weighted_draws_fill_the_epoch_and_use_each_row_evenly(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    weights = [data.draw(st.floats(0.01, 10)) for _ in sizes]
    drawn = draw(sizes, weights, seed)
    assert len(drawn) == sum(sizes)
    times = Counter(drawn)
    for number, size in enumerate(sizes):
        uses = [times[number, row] for row in range(size)]
        assert not uses or max(uses) - min(uses) <= 1


def test_an_epoch_is_shuffled_and_the_seed_decides_how() -> None:
    drawn = draw([100], [None], 1)
    assert drawn != sorted(drawn)
    assert drawn == draw([100], [None], 1)
    assert drawn != draw([100], [None], 2)
