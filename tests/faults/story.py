"""One run's part of a history, put in order: what its events draw, who wrote it, and what its trainers had trained."""

from __future__ import annotations

import json
from bisect import bisect
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from tests.faults.history import History, Row, Seen

ACTIVE = ("preparing", "training", "finishing")
RESTS = ("paused", "stopped", "failed", "succeeded")
SHIPPED = ("metrics", "checkpoint", "phase", "progress", "facts", "sample", "artifact", "amended")
"""Events that a supervisor stores from a journal: in the same transaction it reads what is wanted of its run, and has its lease
made longer. A warning of the host's own is none of them."""
FILLED = "disk.fill"


@dataclass(frozen=True)
class Line:
    """A line of metrics, as a trainer wrote it or as an event tells it."""

    step: int
    t: float
    values: Row = field(hash=False)

    @property
    def key(self) -> tuple[int, float, str]:
        return self.step, self.t, json.dumps(self.values, sort_keys=True)


@dataclass(frozen=True)
class Told:
    """A metrics event, and the attempt whose trainer wrote its line: none where no journal holds it."""

    seq: int
    line: Line
    writer: int | None


@dataclass(frozen=True)
class Owner:
    """An attempt that owned the history, the step that it went on from, and the event that said so (0 for the first)."""

    attempt: int
    base: int
    seq: int


@dataclass(frozen=True)
class Story:
    """All that is known of one run. Rows are in the order of their numbers."""

    row: Row
    events: list[Row]
    attempts: list[Row]
    points: list[Row]
    buckets: list[Row]
    checkpoints: list[Row]
    artifacts: list[Row]
    journals: dict[int, list[Row]]
    clients: dict[str, list[Seen]]
    audit: list[Row]
    """What people said about it, as the audit log has it."""

    @property
    def name(self) -> str:
        return f"run {self.row['id']}"

    @cached_property
    def written(self) -> dict[int, list[Line]]:
        """The metrics of each attempt's journal."""
        return {
            attempt: [
                Line(line["step"], line["t"], line["data"]["values"]) for line in lines if line["kind"] == "metrics"
            ]
            for attempt, lines in self.journals.items()
        }

    @cached_property
    def told(self) -> list[Told]:
        """Every metrics event with its writer. Times to the microsecond tell the lines of two attempts apart."""
        writers = {line.key: attempt for attempt, lines in self.written.items() for line in lines}
        found = []
        for event in self.events:
            if event["kind"] == "metrics":
                line = Line(event["step"], event["data"]["t"], event["data"]["values"])
                found.append(Told(event["seq"], line, writers.get(line.key)))
        return found

    def said(self, action: str) -> list[float]:
        """When a person said so."""
        return [seconds(row["at"]) for row in self.audit if row["action"] == action]

    @cached_property
    def rewound(self) -> list[Row]:
        """Each time that a later attempt took the history over."""
        return [event for event in self.events if event["kind"] == "rewound"]

    @cached_property
    def owners(self) -> list[Owner]:
        """Who owned the history, one after the other. All but the first say `rewound`; the first is the one that wrote."""
        later = [Owner(each["attempt"], each["step"], each["seq"]) for each in self.rewound]
        before = [attempt for attempt in sorted(self.journals) if not later or attempt < later[0].attempt]
        return [Owner(attempt, 0, 0) for attempt in before[:1]] + later

    def owner_at(self, seq: int) -> Owner:
        """Who owned the history when this event was stored."""
        return self.owners[bisect([owner.seq for owner in self.owners], seq) - 1]

    @cached_property
    def stale(self) -> list[Told]:
        """Events of an attempt that no longer owned the history when they were stored."""
        owned = ((told, self.owner_at(told.seq)) for told in self.told if self.owners)
        return [told for told, owner in owned if told.writer is not None and told.writer < owner.attempt]

    @cached_property
    def drawn(self) -> list[Line]:
        """The curve as a chart draws it that applies `rewound`, without what nobody may have written any more."""
        stale = {told.seq for told in self.stale}
        lines = {told.seq: told.line for told in self.told if told.seq not in stale}
        curve: list[Line] = []
        for event in self.events:
            if event["kind"] == "rewound":
                curve = [line for line in curve if line.step <= event["step"]]
            elif event["seq"] in lines:
                curve.append(lines[event["seq"]])
        return curve

    @cached_property
    def trained(self) -> list[Line]:
        """What the run was really trained on: each owner's lines, behind its predecessors' up to its base. What an owner
        measured once more at its base, as its checkpoint owed it yet, is that of its predecessor."""
        lineage: list[Line] = []
        for owner in self.owners:
            lineage = [line for line in lineage if line.step <= owner.base]
            known = {(line.step, name) for line in lineage for name in line.values}
            own = self.written.get(owner.attempt, [])
            lineage += [line for line in own if not all((line.step, name) in known for name in line.values)]
        return lineage


def stories(history: History) -> list[Story]:
    """The history, run by run."""
    tables = (history.events, history.attempts, history.points, history.buckets, history.checkpoints, history.artifacts)
    events, attempts, points, buckets, checkpoints, artifacts = map(_by_run, tables)
    journals: dict[str, dict[int, list[Row]]] = defaultdict(dict)
    for (run, attempt), lines in history.journals.items():
        journals[run][attempt] = lines
    clients: dict[str, dict[str, list[Seen]]] = defaultdict(lambda: defaultdict(list))
    for seen in history.seen:
        clients[seen.run][seen.client].append(seen)
    return [
        Story(
            row,
            events[row["id"]],
            attempts[row["id"]],
            points[row["id"]],
            buckets[row["id"]],
            checkpoints[row["id"]],
            artifacts[row["id"]],
            journals[row["id"]],
            clients[row["id"]],
            [said for said in history.audit if said["subject"] == row["name"] and said["action"].startswith("run.")],
        )
        for row in history.runs
    ]


def _by_run(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["run_id"]].append(row)
    return found


def seconds(moment: str) -> float:
    """A time of Postgres in seconds since the epoch."""
    return datetime.fromisoformat(moment).timestamp()
