"""kill -9 of each part in mid-run: the run ends well, and whoever watched from outside saw each step once.

Most of a fault's time is waiting for leases and restarts, so each has a studio of its own and two run side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.commands.client import Client
from backend.web.shapes.runs import EventOut
from tests.journeys.materials import Material, write_alpaca
from tests.support.processes import is_alive
from tests.support.studios import Studio, running_studio

STEPS, SAVE_STEPS, STRIKE_STEP = 100, 10, 15
SECONDS = 240
VICTIMS = {
    "trainer": "worker.trainer",
    "supervisor": "worker.supervisor",
    "web": "backend.cli web",
    "postgres": "bin/postgres",
    "valkey": "valkey-server",
}
"""What is killed, and what names it among a studio's processes."""


@dataclass(frozen=True)
class Outcome:
    """What was seen of one run, from outside and in the studio."""

    state: str
    seen: list[EventOut]
    curve: list[int]
    journals: dict[int, list[dict[str, Any]]]
    log: str


def strike(victim: str, base: Path, file: Path) -> Outcome:
    """A studio, a run, a kill in mid-run; the studio is stopped in order at the end, and nothing of it may be left."""
    material = Material(base, file, rows=60)
    with running_studio(base) as studio, studio.client() as client:
        client.put_dataset("rows", file, on_bytes=lambda _count: None)
        recipe = material.recipe("rows", victim)
        recipe |= {"training": recipe["training"] | {"max_steps": STEPS}, "saving": {"save_steps": SAVE_STEPS}}
        client.launch(recipe)
        seen: list[EventOut] = []
        killed: psutil.Process | None = None
        for event in client.events(victim):
            if killed is None and event.step == STRIKE_STEP:
                killed = victim_of(studio, client, victim)
                killed.kill()
            seen.append(event)
        assert killed is not None
        assert not is_alive(killed)
        outcome = Outcome(
            client.run(victim).state,
            seen,
            [step for step, _ in client.curves(victim, "loss").curves["loss"]],
            journals(studio, str(client.run(victim).id)),
            studio.logs(),
        )
        studio.stop()
        return outcome


def victim_of(studio: Studio, client: Client, victim: str) -> psutil.Process:
    """The process to kill. It lives: the run is in its middle."""
    found = studio.children(VICTIMS[victim])
    if victim != "trainer":
        return found[0]
    # The warm spare has the same arguments: the trainer at work wrote its number into its attempt's folder.
    run = client.run(victim)
    folder = studio.home / "runs" / str(run.id) / f"attempt-{run.attempt}"
    pid = json.loads((folder / "trainer.json").read_text())["pid"]
    return next(process for process in found if process.pid == pid)


def journals(studio: Studio, run_id: str) -> dict[int, list[dict[str, Any]]]:
    """The lines that each attempt's trainer wrote."""
    files = sorted((studio.home / "runs" / run_id).glob("attempt-*/events.jsonl"))
    return {
        int(file.parent.name.removeprefix("attempt-")): [json.loads(line) for line in whole_lines(file)]
        for file in files
    }


def whole_lines(file: Path) -> list[str]:
    """A killed trainer may have left half a line."""
    return [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture(scope="module")
def outcomes(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Outcome]]]:
    """All campaigns, two at a time."""
    file = write_alpaca(tmp_path_factory.mktemp("rows") / "rows.json")
    with ThreadPoolExecutor(2) as pool:
        yield {victim: pool.submit(strike, victim, tiny_base, file) for victim in VICTIMS}


@pytest.fixture(params=list(VICTIMS))
def victim(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def outcome(victim: str, outcomes: dict[str, Future[Outcome]]) -> Outcome:
    return outcomes[victim].result(SECONDS * 2)


def losses(events: list[EventOut]) -> list[tuple[int, Any]]:
    """The steps and losses as a chart draws them that applies `rewound`: everything after its step is taken back."""
    drawn: list[tuple[int, Any]] = []
    for event in events:
        if event.kind == "rewound":
            drawn = [point for point in drawn if point[0] <= event.step]
        if event.kind == "metrics" and "loss" in event.data["values"]:
            drawn.append((event.step, event.data["values"]["loss"]))
    return drawn


def test_the_run_ends_well_and_each_step_is_there_once(outcome: Outcome) -> None:
    steps = list(range(1, STEPS + 1))
    assert outcome.state == "succeeded"
    assert [event.seq for event in outcome.seen] == list(range(1, len(outcome.seen) + 1)), "no event missed or doubled"
    assert [step for step, _ in losses(outcome.seen)] == steps
    assert outcome.curve == steps
    assert [event.data["kind"] for event in outcome.seen if event.kind == "artifact"] == ["adapter", "merged"]


def test_what_was_seen_is_what_the_trainers_wrote(outcome: Outcome) -> None:
    written = {
        (attempt, line["step"]): line["data"]["values"]["loss"]
        for attempt, lines in outcome.journals.items()
        for line in lines
        if line["kind"] == "metrics" and "loss" in line["data"]["values"]
    }
    last = {step: loss for (_, step), loss in sorted(written.items())}
    assert dict(losses(outcome.seen)) == last


def test_only_what_held_the_run_costs_an_attempt(victim: str, outcome: Outcome) -> None:
    begun = [event.data for event in outcome.seen if event.kind == "state" and event.data["state"] == "preparing"]
    expected = 2 if victim in ("trainer", "supervisor") else 1
    assert len(begun) == expected, outcome.log
