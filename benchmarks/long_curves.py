"""A curve of a million steps as a chart asks for it: stored extremes, beside SQL that reduces the points each time.

A spike of a single step must be seen at every zoom, so 200 of them, up, down and NaN, lie among the values; both sides are
checked for each that lies in what was asked: they do the same work. Ours is checked against the values that were stored, too: it
draws none but these, each at its step, and of every stretch the lowest and the highest. Zooms lie just under each level of
buckets, where most of the finer ones must be read, and between them; a page first asks for fewer points than a zoom, which wants
two a pixel.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from backend.core import curves, points
from backend.core.points import WIDTHS
from benchmarks.durable_points import claimed
from benchmarks.rows import Asked, Row, growth, row
from tests.support.databases import own_postgres

STEPS, ROUNDS, SPIKES = 1_000_000, 9, 200
PAGE, ZOOM = 1000, 2000
"""Points that a page asks for, and a zoom in a chart that is 1,000 pixels wide."""
T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """A stretch of steps, and about how many points of it are wanted."""

    first: int
    last: int
    points: int

    @property
    def stretch(self) -> int:
        """Steps that come to two points of ours."""
        return curves.grain(self.last - self.first + 1, self.points)[0]

    def __str__(self) -> str:
        return f"{self.last - self.first + 1:,}"


WHOLE = Look(1, STEPS, PAGE)
Values = np.ndarray[tuple[int], np.dtype[np.float64]]
"""One of each step, from the first."""
PEER = text("""
    SELECT bucket, min(value) FILTER (WHERE value <> 'NaN') AS low, max(value) FILTER (WHERE value <> 'NaN') AS high,
           bool_or(value = 'NaN') AS odd
    FROM (SELECT value, width_bucket(step, :first, :last + 1, :buckets) AS bucket FROM points
          WHERE run_id = :run AND name = 'loss' AND step BETWEEN :first AND :last) AS each
    GROUP BY bucket ORDER BY bucket
""")


def zooms() -> Iterator[Look]:
    """Into every level of buckets, just before it is left for the next and half way there, and into points alone."""
    for width, wider in pairwise((*WIDTHS, 2 * STEPS)):
        for stretch in (width - 1, (width + wider) // 2):
            steps = min(stretch * ZOOM // 2, STEPS)
            first = min(123_457, STEPS - steps + 1)
            yield Look(first, first + steps - 1, ZOOM)
            if steps == STEPS:
                return


@dataclass(frozen=True)
class Pair:
    """Milliseconds of both sides for one look, and whether each of its spikes was seen on both."""

    look: Look
    ours: float
    peer: float
    exact: bool

    def __str__(self) -> str:
        return f"{self.look}: {self.ours:.1f} for {self.peer:.1f}"


def measure(_asked: Asked) -> Sequence[Row]:
    """Rows for the whole curve, for the slowest zoom into it, and for how the time grows with a run's length."""
    with own_postgres() as engine:
        sessions = sessionmaker(engine)
        lengths = (STEPS // 100, STEPS // 10, STEPS)
        stored = {steps: fill(sessions, steps) for steps in lengths}
        with sessions() as session:
            session.execute(text("ANALYZE points, buckets"))
            whole, *closer = (beside_sql(session, *stored[STEPS], look) for look in (WHOLE, *zooms()))
            each = [partial(curves.read, session, run, ["loss"]) for run, *_ in stored.values()]
            times = [1e3 * seconds for seconds, _curve in in_turns(*each)]
    what = "reading a curve of 100 times the steps"
    grown = growth("3b-growth", what, times, at=lengths, of="steps", unit="ms")
    return [whole_curve(whole), slowest_zoom(closer), grown]


def whole_curve(found: Pair) -> Row:
    what = f"a curve of {STEPS:,} steps, whole, in {PAGE:,} points"
    return row("3b", what, "ms", found.ours, found.peer, most=10, equal=found.exact, beside=said(found.exact))


def slowest_zoom(found: Sequence[Pair]) -> Row:
    slowest = max(found, key=lambda pair: pair.ours)
    exact = all(pair.exact for pair in found)
    narrow = [pair.look for pair in found if pair.peer <= pair.ours]
    faster = f"plain SQL is as fast or faster up to {max(narrow, key=lambda look: look.stretch)}" if narrow else ""
    told = "; ".join(
        [f"ours for SQL's, by steps: {', '.join(map(str, found))} ms", *filter(None, [faster]), said(exact)]
    )
    what = f"the slowest zoom, into {slowest.look} steps in {ZOOM:,} points"
    return row("3b", what, "ms", slowest.ours, slowest.peer, most=10, equal=exact, beside=told)


def said(exact: bool) -> str:
    everything = "every spike of a step is there on both sides, and each stretch's true extremes on ours"
    return everything if exact else "EXTREMES ARE MISSING"


def fill(sessions: sessionmaker[Session], steps: int) -> tuple[UUID, Values, Mapping[int, float]]:
    """A run with a curve of so many steps, its values, and where its spikes are."""
    chance = random.Random(steps)
    odd = (99.0, -99.0, math.nan)
    spikes = {step: chance.choice(odd) for step in chance.sample(range(1, steps + 1), SPIKES)}
    values = np.array([spikes.get(step, 1 + chance.random()) for step in range(1, steps + 1)])
    run_id = claimed(sessions).run_id
    for first in range(1, steps + 1, 50_000):
        last = min(first + 49_999, steps)
        told = [(step, float(values[step - 1]), float(step)) for step in range(first, last + 1)]
        with sessions.begin() as session:
            points.store(session, run_id, {"loss": told}, beyond=first - 1)
    return run_id, values, spikes


def beside_sql(session: Session, run: UUID, values: Values, spikes: Mapping[int, float], look: Look) -> Pair:
    """Both sides look; each stretch that has a spike must show one, and ours its own extremes, too."""
    asked = {"run": run, "first": look.first, "last": look.last, "buckets": look.points // 2}
    read = partial(curves.read, session, run, ["loss"], first=look.first, last=look.last, points=look.points)
    (ours, drawn), (peer, buckets) = in_turns(read, lambda: session.execute(PEER, asked).all())
    inside = {step: spikes[step] for step in spikes if look.first <= step <= look.last}
    exact = shows_all(drawn["loss"], inside, look) and sql_shows_all(buckets, inside, look)
    exact = exact and is_true(drawn["loss"], values, look)
    return Pair(look, ours * 1e3, peer * 1e3, exact)


def shows_all(drawn: curves.Curve, spikes: Mapping[int, float], look: Look) -> bool:
    """A stretch keeps its lowest, its highest and its first value that is no number: each kind of spike once a stretch."""
    kinds = {(step // look.stretch, str(points.word(value))) for step, value in spikes.items()}
    return kinds <= {(step // look.stretch, str(value)) for step, value in drawn}


def is_true(drawn: curves.Curve, values: Values, look: Look) -> bool:
    """Whether all that is drawn was stored so, and the lowest and the highest value of each stretch are drawn."""
    if any(str(points.word(float(values[step - 1]))) != str(value) for step, value in drawn):
        return False
    steps = np.arange(look.first, look.last + 1)
    _, starts = np.unique(steps // look.stretch, return_index=True)
    asked = values[look.first - 1 : look.last]
    lowest, highest = (of.reduceat(asked, starts) for of in (np.fmin, np.fmax))  # of the numbers, where there are any
    extremes = {(step // look.stretch, value) for step, value in drawn}
    wanted = zip((steps[starts] // look.stretch).tolist(), lowest.tolist(), highest.tolist(), strict=True)
    return all({(at, low), (at, high)} <= extremes for at, low, high in wanted)


def sql_shows_all(buckets: Sequence[Any], spikes: Mapping[int, float], look: Look) -> bool:
    """The same of SQL's buckets, which keep a lowest, a highest and whether one was no number."""
    extremes = {each.bucket: (each.low, each.high, math.nan if each.odd else None) for each in buckets}
    count, steps = look.points // 2, look.last + 1 - look.first
    kinds = {((step - look.first) * count // steps + 1, str(value)) for step, value in spikes.items()}
    return kinds <= {(bucket, str(value)) for bucket, values in extremes.items() for value in values}


def in_turns(*works: Callable[[], Any]) -> list[tuple[float, Any]]:
    """Of each, the median of several rounds in seconds, and what came of the last."""
    times, answers = [list[float]() for _ in works], list[Any](works)
    for _ in range(ROUNDS):
        for at, work in enumerate(works):
            began = time.perf_counter()
            answers[at] = work()
            times[at].append(time.perf_counter() - began)
    return [*zip(map(statistics.median, times), answers, strict=True)]
