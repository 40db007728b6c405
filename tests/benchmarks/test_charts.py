"""What the benchmark of charts takes for a spike."""

from __future__ import annotations

import pytest

from benchmarks.charts import shows_spike

WIDTH, TOP, FOOT, SPIKE = 300, 10, 200, 100
Columns = list[tuple[int, int] | None]


def drawn(top: int, *, spike_at: int | None = SPIKE) -> Columns:
    """A line between `top` and the foot, in all columns but the first and the last, and one spike of three columns."""
    columns: Columns = [(top, FOOT)] * WIDTH
    if spike_at is not None:
        columns[spike_at - 1 : spike_at + 2] = [(TOP, FOOT)] * 3
    return [None, *columns, None]


def test_a_spike_is_seen_where_it_stands_alone_at_its_place() -> None:
    assert shows_spike(drawn(180), SPIKE / (WIDTH - 1))


@pytest.mark.parametrize(
    "columns",
    [drawn(TOP, spike_at=None), drawn(180, spike_at=None), drawn(180, spike_at=SPIKE + 9), drawn(TOP), [None] * WIDTH],
    ids=[
        "its axis was fitted to the line",
        "its axis is that of the others",
        "elsewhere",
        "not alone",
        "nothing drawn",
    ],
)
def test_a_picture_without_it_shows_none(columns: Columns) -> None:
    assert not shows_spike(columns, SPIKE / (WIDTH - 1))
