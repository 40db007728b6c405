"""A curve of a million steps as a chart asks for it: stored extremes, beside SQL that reduces the points each time.

A spike of a single step must be seen at every zoom, so 200 of them, up, down and NaN, lie among the values; both sides are
checked for each that lies in what was asked: they do the same work.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from backend.core import curves, points
from benchmarks.durable_points import claimed
from benchmarks.rows import Asked, Row, growth, row
from tests.support.databases import own_postgres

STEPS, POINTS, ROUNDS, SPIKES = 1_000_000, 1000, 9, 200
T = TypeVar("T")
Span = tuple[int, int]
ZOOMS: tuple[Span, ...] = ((1, 1_000_000), (123_457, 623_456), (500_001, 510_000), (777_000, 777_900))
PEER = text("""
    SELECT bucket, min(value) FILTER (WHERE value <> 'NaN') AS low, max(value) FILTER (WHERE value <> 'NaN') AS high,
           bool_or(value = 'NaN') AS odd
    FROM (SELECT value, width_bucket(step, :first, :last + 1, :buckets) AS bucket FROM points
          WHERE run_id = :run AND name = 'loss' AND step BETWEEN :first AND :last) AS each
    GROUP BY bucket ORDER BY bucket
""")


def measure(_asked: Asked) -> Sequence[Row]:
    """One row for the whole curve, and one for how the time grows with a run's length."""
    with own_postgres() as engine:
        sessions = sessionmaker(engine)
        lengths = (STEPS // 100, STEPS // 10, STEPS)
        stored = {steps: fill(sessions, steps) for steps in lengths}
        with sessions() as session:
            session.execute(text("ANALYZE points, buckets"))
            run, spikes = stored[STEPS]
            found = [beside_sql(session, run, spikes, span) for span in ZOOMS]
            times = [1e3 * timed(partial(curves.read, session, stored[at][0], ["loss"]))[0] for at in lengths]
    what = "reading a curve of 100 times the steps"
    return [whole_curve(found), growth("3b-growth", what, times, at=lengths, of="steps", unit="ms", most=10)]


def whole_curve(found: Sequence[tuple[float, float, bool]]) -> Row:
    """Of all zooms the slowest of ours, beside what SQL takes for the whole curve."""
    exact = all(each[2] for each in found)
    slowest = max(ours for ours, _peer, _exact in found)
    zooms = ", ".join(f"{ours * 1e3:.1f} for {peer * 1e3:.0f}" for ours, peer, _exact in found)
    told = "every spike of a step is there on both sides" if exact else "SPIKES ARE MISSING"
    beside = f"ours for SQL's, by zoom: {zooms} ms; {told}"
    what = "a curve of 1,000,000 steps, the slowest zoom"
    return row("3b", what, "ms", slowest * 1e3, found[0][1] * 1e3, most=10, equal=exact, beside=beside)


def fill(sessions: sessionmaker[Session], steps: int) -> tuple[UUID, Mapping[int, float]]:
    """A run with a curve of so many steps, and where its spikes are."""
    chance = random.Random(steps)
    odd = (99.0, -99.0, math.nan)
    spikes = {step: chance.choice(odd) for step in chance.sample(range(1, steps + 1), SPIKES)}
    run_id = claimed(sessions).run_id
    for first in range(1, steps + 1, 50_000):
        values = [
            (step, spikes.get(step, 1 + chance.random()), float(step))
            for step in range(first, min(first + 50_000, steps + 1))
        ]
        with sessions.begin() as session:
            points.store(session, run_id, {"loss": values}, beyond=first - 1)
    return run_id, spikes


def beside_sql(session: Session, run: UUID, spikes: Mapping[int, float], span: Span) -> tuple[float, float, bool]:
    """Seconds of ours and of SQL's, and whether each stretch of ours that has a spike shows one."""
    first, last = span
    asked = {"run": run, "first": first, "last": last, "buckets": POINTS // 2}
    ours, drawn = timed(lambda: curves.read(session, run, ["loss"], first=first, last=last, points=POINTS))
    peer, buckets = timed(lambda: session.execute(PEER, asked).all())
    inside = {step: spikes[step] for step in spikes if first <= step <= last}
    return ours, peer, shows_all(drawn["loss"], inside, span) and sql_shows_all(buckets, inside, span)


def shows_all(drawn: curves.Curve, spikes: Mapping[int, float], span: Span) -> bool:
    """A stretch keeps its lowest, its highest and its first value that is no number: each kind of spike once a stretch."""
    stretch = max(1, math.ceil(2 * (span[1] - span[0] + 1) / POINTS))
    kinds = {(step // stretch, str(points.word(value))) for step, value in spikes.items()}
    return kinds <= {(step // stretch, str(value)) for step, value in drawn}


def sql_shows_all(buckets: Sequence[Any], spikes: Mapping[int, float], span: Span) -> bool:
    """The same of SQL's buckets, which keep a lowest, a highest and whether one was no number."""
    first, last = span
    extremes = {each.bucket: (each.low, each.high, math.nan if each.odd else None) for each in buckets}
    kinds = {((step - first) * (POINTS // 2) // (last + 1 - first) + 1, str(value)) for step, value in spikes.items()}
    return kinds <= {(bucket, str(value)) for bucket, values in extremes.items() for value in values}


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """The median of several rounds, in seconds, and what came of the last."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answer = work()
        times.append(time.perf_counter() - began)
    return statistics.median(times), answer
