"""However a run goes on, dies and goes back: its points are those of its history, and its buckets hold their extremes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from random import Random
from typing import Any

import pytest
from sqlalchemy import select

from backend.core import history, journal, runs
from backend.core.assignment import Checkpoint, Line, LineKind
from backend.core.models import Bucket, Point, Run
from backend.core.points import BUCKET, WIDTHS, extremes_of, number
from tests.core.conftest import Sessions

PATIENT = runs.Limits(crash_limit=1000, attempt_limit=1000)
ORIGIN = journal.Origin("here", "runs/x/attempt-1")
LINE_BYTES = 10


def value_of(name: str, step: int) -> float | str:
    """What is measured there, whoever measures it again."""
    dice = Random(f"{name} {step}")
    return dice.choice(("NaN", "Infinity", "-Infinity")) if dice.random() < 0.05 else dice.gauss(0, 1)


def measured(step: int) -> Iterator[Line]:
    """A step's lines; at some steps an evaluation follows, and others have a word in between."""
    names = [["loss", "grad_norm"], *([["eval_loss"]] if step % 7 == 0 else [])]
    for told in names:
        data: dict[str, Any] = {"values": {name: value_of(name, step) for name in told}, "epoch": 0.0}
        yield Line(n=0, t=1e9 + step, kind=LineKind.METRICS, step=step, data=data)
        if step % 5 == 0:
            yield Line(n=0, t=1e9, kind=LineKind.LOG, step=step, data={"level": "info", "text": "a word"})


@dataclass
class Life:
    """A run whose trainers die again and again."""

    sessions: Sessions
    dice: Random
    step: int = 0
    told: set[tuple[str, int]] = field(default_factory=set)
    stored: dict[int, int] = field(default_factory=dict)
    """How many bytes of each attempt's journal were shipped."""

    def claim(self) -> runs.Token:
        with self.sessions.begin() as session:
            token = runs.claim(session, worker="a", device="cpu", place="here", lease_seconds=30, limits=PATIENT)
        assert token is not None
        return token

    def begin(self, token: runs.Token, step: int, owner: int) -> None:
        chosen = Checkpoint(folder=f"checkpoint-{step}", step=step, attempt=owner) if step else None
        with self.sessions.begin() as session:
            history.begin(session, token, chosen, adopted=None, place="here")
        self.told = {(name, at) for name, at in self.told if at <= step}
        self.step = step

    def train(self, token: runs.Token, writer: int) -> None:
        """Some steps of one attempt's journal are shipped, in one batch or several."""
        lines = [line for at in range(self.step + 1, self.step + self.dice.randint(2, 90)) for line in measured(at)]
        while lines:
            some = lines[: self.dice.randint(1, len(lines))]
            lines = lines[len(some) :]
            start = self.stored.get(writer, 0)
            end = self.stored[writer] = start + LINE_BYTES * len(some)
            with self.sessions.begin() as session:
                journal.ship(session, token, journal.Batch(writer, start, end, some), ORIGIN, 30)
            for line in some:
                self.step = line.step
                self.told |= {(name, line.step) for name in line.data.get("values", ())}

    def die(self, token: runs.Token) -> None:
        with self.sessions.begin() as session:
            runs.reap(session, token, runs.Ending(None), PATIENT)

    def is_as_told(self) -> None:
        with self.sessions.begin() as session:
            points = {
                (name, step): value
                for name, step, value in session.execute(select(Point.name, Point.step, Point.value))
            }
            buckets = session.execute(select(*(getattr(Bucket, name) for name in BUCKET[1:]))).all()
        due = {(name, step): number(value_of(name, step)) for name, step in self.told}
        assert spelled(points.items()) == spelled(due.items())
        assert spelled(map(tuple, buckets)) == spelled(buckets_of(due))


def buckets_of(due: dict[tuple[str, int], float]) -> Iterator[tuple[Any, ...]]:
    for width in WIDTHS:
        for (name, bucket), inside in groupby(sorted(due), lambda key: (key[0], key[1] // width)):  # noqa: B023 -- used at once
            yield name, width, bucket, *extremes_of((step, due[name, step]) for _name, step in inside)


def spelled(rows: Any) -> list[str]:
    """NaN equals NaN."""
    return sorted(map(repr, rows))


@pytest.mark.parametrize("seed", range(4))
def test_points_and_buckets_are_those_of_the_history(sessions: Sessions, new_run: Callable[[], Run], seed: int) -> None:
    new_run()
    life = Life(sessions, Random(seed))
    owner = 0
    for _ in range(5):
        token = life.claim()
        if owner and life.dice.random() < 0.5:
            life.train(token, owner)  # what its owner left behind, before the history changes hands
            life.is_as_told()
        life.begin(token, life.dice.choice((0, life.step, life.dice.randint(0, life.step))), owner)
        life.is_as_told()
        owner = token.attempt
        life.train(token, owner)
        life.is_as_told()
        life.die(token)
