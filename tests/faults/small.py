"""A small history that keeps every promise: a run whose first trainer is killed after step 3, and goes on from step 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.faults.checker import LEVELS
from tests.faults.history import History, Row, Sample, Seen, Struck
from tests.faults.story import seconds

RUN, SUPERVISOR, FIRST, SECOND = "run-1", 10, 11, 12
KILLED_AT = 104.0
EVENTS: tuple[tuple[str, int, int, float, Any], ...] = (
    ("state", 0, 0, 100.0, "queued"),
    ("state", 0, 1, 100.5, "preparing"),
    ("state", 0, 1, 101.0, "training"),
    ("phase", 0, 1, 101.0, None),
    ("metrics", 1, 1, 101.5, 3.0),
    ("metrics", 2, 1, 102.5, 2.5),
    ("checkpoint", 2, 1, 102.6, None),
    ("metrics", 3, 1, 103.5, 2.25),
    ("log", 3, 1, 104.5, "The trainer died. It was killed."),
    ("state", 3, 1, 104.5, "queued"),
    ("state", 3, 2, 105.0, "preparing"),
    ("rewound", 2, 2, 105.5, None),
    ("state", 2, 2, 106.0, "training"),
    ("phase", 2, 2, 106.0, None),
    ("metrics", 3, 2, 106.5, 2.25),
    ("metrics", 4, 2, 107.5, 2.0),
    ("state", 4, 2, 108.0, "finishing"),
    ("artifact", 4, 2, 108.5, None),
    ("state", 4, 2, 109.0, "succeeded"),
)
"""Kind, step, attempt, time, and the loss, the state or the words."""
ARRIVAL_SECONDS = 0.25
"""After so long a client has received an event."""
ENDINGS = ((1, 100.5, 104.5, "It was killed."), (2, 105.0, 109.0, "succeeded"))
"""Each attempt with its start, its end and how it ended."""
RATE = 0.002
GIVEN = {"kind": "adapter", "bytes": 7, "sha256": "5e"}
CHECKPOINT = "runs/run-1/attempt-1/checkpoints/checkpoint-2"


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def event(seq: int, kind: str, step: int, attempt: int, at: float, what: Any) -> Row:
    data: Row = {}
    if kind == "state":
        data = {"state": what, "intent": "run", "attempt": attempt}
    if kind == "metrics":
        data = {"values": {"loss": what}, "epoch": 0.0, "t": at - 0.1}
    if kind == "phase":
        data = {"phase": "training", "text": ""}
    if kind == "artifact":
        data = dict(GIVEN)
    if kind == "rewound":
        data = {"step": step, "lost": 0}
    if kind == "log":
        data = {"level": "error", "text": what}
    row = {"run_id": RUN, "seq": seq, "kind": kind, "step": step, "attempt": attempt, "data": data}
    return row | {"at": moment(at)}


def seen(stored: Row, at: float) -> Seen:
    """What a client received then."""
    return Seen(at, "ada", RUN, stored["seq"], stored["kind"], stored["step"], stored["data"])


def attempt_row(number: int, started: float, ended: float, cause: str) -> Row:
    times = {"started_at": moment(started), "ended_at": moment(ended)}
    return {"run_id": RUN, "number": number, "worker": "a", "cause": cause, **times}


def checkpoint(attempt: int, step: int, at: float) -> Row:
    folder = f"runs/{RUN}/attempt-{attempt}/checkpoints/checkpoint-{step}"
    row = {"run_id": RUN, "attempt": attempt, "step": step, "folder": folder}
    return row | {"created_at": moment(at), "replaced_at": None}


def artifact(attempt: int, step: int, at: float) -> Row:
    folder = f"runs/{RUN}/attempt-{attempt}/artifacts/{GIVEN['kind']}"
    row = {"run_id": RUN, "attempt": attempt, "step": step, "folder": folder, "sha256": GIVEN["sha256"]}
    return row | {"created_at": moment(at), "withdrawn_at": None}


def looks(pid: int, name: str, first: float, last: float, attempt: int | None = None) -> list[Sample]:
    """A process, looked at from its start to its end."""
    run, device = (RUN, "cpu") if attempt else (None, None)
    times = [first + 0.5 * number for number in range(int((last - first) * 2))] + [last]
    parent = SUPERVISOR if name in ("trainer", "spare") else 1
    return [Sample(at, pid, first, parent, name, run, attempt, device, "a", "alive") for at in times]


def small_history() -> History:
    events = [event(number, *told) for number, told in enumerate(EVENTS, start=1)]
    metrics = [row for row in events if row["kind"] == "metrics"]
    curve = {row["step"]: row["data"]["values"]["loss"] for row in metrics}
    bucket = {
        "run_id": RUN,
        "name": "loss",
        "bucket": 0,
        "low": 2.0,
        "low_step": 4,
        "high": 3.0,
        "high_step": 1,
        "odd": None,
    }
    row = {"id": RUN, "name": "owls", "state": "succeeded", "intent": "run", "seq": len(events), "total_steps": 4}
    row["recipe"] = {"training": {"learning_rate": RATE}}
    return History(
        runs=[row | {"holder": None, "lease_until": None, "cause": None}],
        attempts=[attempt_row(*each) for each in ENDINGS],
        events=events,
        points=[{"run_id": RUN, "name": "loss", "step": step, "value": value} for step, value in curve.items()],
        buckets=[bucket | {"width": width} for width in LEVELS],
        checkpoints=[checkpoint(1, 2, 102.6)],
        artifacts=[artifact(2, 4, 108.5)],
        journals={(RUN, attempt): list(journal(events, attempt)) for attempt in (1, 2)},
        seen=[seen(each, seconds(each["at"]) + ARRIVAL_SECONDS) for each in events],
        samples=[
            *looks(SUPERVISOR, "supervisor", 99.0, 112.0),
            *looks(FIRST, "trainer", 100.5, KILLED_AT, 1),
            *looks(SECOND, "trainer", 105.5, 108.9, 2),
        ],
        struck=[Struck(KILLED_AT, 1, 7, "trainer.kill", "training", f"trainer {FIRST} of {RUN}/1")],
        accepted=[RUN],
        leftovers=[],
        readable={CHECKPOINT: []},
        reference={RUN: [("loss", *point) for point in curve.items()]},
    )


def journal_line(told: Row) -> Row:
    """What the trainer wrote of an event."""
    data = {name: value for name, value in told["data"].items() if name != "t"}
    return {
        "kind": told["kind"],
        "step": told["step"],
        "t": told["data"].get("t", seconds(told["at"]) - 0.1),
        "data": data,
    }


def journal(events: Sequence[Row], attempt: int) -> Iterator[Row]:
    """What the attempt's trainer wrote: that it works, and then all that became events."""
    own = (each for each in events if each["attempt"] == attempt)
    return (journal_line(each) for each in own if each["kind"] in ("phase", "metrics", "checkpoint", "artifact"))
