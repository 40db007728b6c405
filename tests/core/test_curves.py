"""A long curve as charts read it, beside the same extremes sought in Python."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from backend.core import curves, points
from backend.core.models import Run
from backend.core.points import WIDTHS, Pair, stretches, word
from tests.core.conftest import Sessions

STEPS = 30_000
ODD = (math.nan, math.inf, -math.inf)


@pytest.fixture
def told(sessions: Sessions, new_run: Callable[[], Run]) -> tuple[Run, list[Pair]]:
    """A run of few different values, so that many are equal, with gaps of one step and of many, and holes."""
    run, dice = new_run(), random.Random(3)
    pairs = [(step, float(dice.randrange(40))) for step in range(1, STEPS) if dice.random() < 0.9]
    pairs = [(step, dice.choice(ODD) if dice.random() < 0.01 or 9000 < step < 9700 else v) for step, v in pairs]
    with sessions.begin() as session:
        points.store(session, run.id, {"loss": [(step, value, 0.0) for step, value in pairs]}, beyond=0)
    return run, pairs


def thinned(pairs: list[Pair], first: int, last: int, most: int) -> curves.Curve:
    """Extremes of equal stretches: of many points, those of whole buckets inside and of single points at the ragged ends."""
    inside = [pair for pair in pairs if first <= pair[0] <= last]
    low, high = inside[0][0], inside[-1][0]
    if len(inside) <= most:
        return [(step, word(value)) for step, value in inside]
    wanted = math.ceil(2 * (high - low + 1) / most)
    width = max((w for w in WIDTHS if w <= wanted), default=1)
    stretch = round(wanted / width) * width
    whole = range(-(-low // width) * width, (high + 1) // width * width)
    parts = ([pair for pair in inside if pair[0] in whole], [pair for pair in inside if pair[0] not in whole])
    found = {pair for part in parts for _, extremes in stretches(part, stretch) for pair in extremes.pairs()}
    return [(step, word(value)) for step, value in sorted(found)]


@pytest.mark.parametrize("most", [10, 137, 1000])
def test_every_zoom_of_a_curve_holds_just_the_extremes_of_its_stretches(
    sessions: Sessions, told: tuple[Run, list[Pair]], most: int
) -> None:
    run, pairs = told
    with sessions() as session:
        for first, last in (
            (1, STEPS),
            (12, 29_000),
            (7_777, 12_345),
            (8_000, 8_100),
            (9_001, 9_699),
            (20_000, 25_119),
        ):
            read = curves.read(session, run.id, ["loss"], first=first, last=last, points=most)
            assert read == {"loss": thinned(pairs, first, last, most)}, (first, last)


def test_when_steps_were_measured_is_told_of_more_of_them_than_a_statement_takes_parameters(
    sessions: Sessions, new_run: Callable[[], Run]
) -> None:
    run, steps = new_run(), range(1, 70_001)
    with sessions.begin() as session:
        points.store(session, run.id, {"loss": [(step, 0.5, 1e9 + step) for step in steps]}, beyond=0)
    with sessions() as session:
        told = curves.times(session, run.id, curves.read(session, run.id, points=len(steps)))
        assert told == [(step, 1e9 + step) for step in steps]
        assert curves.values_at(session, run.id, ["loss"], steps) == {step: {"loss": 0.5} for step in steps}
