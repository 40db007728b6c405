from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.core.rendering.packing import best_fit


@given(st.lists(st.integers(1, 50), max_size=200))
def test_every_document_is_placed_once_and_no_row_overflows(lengths: list[int]) -> None:
    rows = best_fit(lengths, 50)
    assert sorted(document for row in rows for document in row) == list(range(len(lengths)))
    assert all(sum(lengths[document] for document in row) <= 50 for row in rows)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200))
def test_no_two_rows_could_have_been_one(lengths: list[int]) -> None:
    filled = sorted(sum(lengths[document] for document in row) for row in best_fit(lengths, 50))
    assert len(filled) == 1 or filled[0] + filled[1] > 50


def test_a_document_goes_where_least_room_is_left() -> None:
    assert best_fit([7, 6, 3, 4], 10) == [[0, 2], [1, 3]]
