"""kill -9 of what a run needs but what does not hold it: `studio up` brings each back, and the run's trainer works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from backend.commands.client import Client, Refused
from backend.web.shapes.runs import EventOut
from tests.journeys.materials import Material, write_alpaca
from tests.support.processes import is_alive, wait_until
from tests.support.studios import Studio, running_studio

STEPS, SAVE_STEPS = 100, 10
SLOWED = {"max_steps": STEPS, "gradient_accumulation_steps": 8}
"""Long enough that the web, killed first, is back while the run trains."""
VICTIMS = {15: "backend.cli web", 40: "bin/postgres", 65: "valkey-server"}
"""What is killed at which step, by what names it among a studio's processes."""


@dataclass(frozen=True)
class Outcome:
    """What was seen of the run, from outside and in the studio."""

    state: str
    seen: list[EventOut]
    curve: list[int]
    killed: list[psutil.Process]
    log: str


@pytest.fixture(scope="module")
def outcome(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    material = Material(tiny_base, write_alpaca(tmp_path_factory.mktemp("rows") / "rows.json"), rows=60)
    with running_studio(tiny_base) as studio, studio.client() as client:
        client.put_dataset("rows", material.file, on_bytes=lambda _count: None)
        recipe = material.recipe("rows", "struck")
        recipe |= {"training": recipe["training"] | SLOWED, "saving": {"save_steps": SAVE_STEPS}}
        client.launch(recipe)
        yield follow(studio, client)
        studio.stop()


def follow(studio: Studio, client: Client) -> Outcome:
    """Read the run's events to its end, and kill on the way."""
    seen: list[EventOut] = []
    killed: dict[int, psutil.Process] = {}
    for event in client.events("struck"):
        seen.append(event)
        if event.step in VICTIMS and event.step not in killed:
            killed[event.step] = studio.children(VICTIMS[event.step])[0]
            killed[event.step].kill()
    wait_until(lambda: answers(client), seconds=60, what="the return of everything that was killed")
    curve = [step for step, _ in client.curves("struck", "loss").curves["loss"]]
    return Outcome(client.run("struck").state, seen, curve, list(killed.values()), studio.logs())


def answers(client: Client) -> bool:
    """Whether the studio reads its database; its Postgres may have been killed a moment ago."""
    try:
        client.run("struck")
    except Refused as refused:
        if refused.status != 503:
            raise
        return False
    return True


def test_the_run_ends_well_and_each_step_is_there_once(outcome: Outcome) -> None:
    steps = list(range(1, STEPS + 1))
    assert outcome.state == "succeeded", outcome.log
    assert [event.seq for event in outcome.seen] == list(range(1, len(outcome.seen) + 1)), "no event missed or doubled"
    assert [event.step for event in outcome.seen if "loss" in event.data.get("values", {})] == steps
    assert outcome.curve == steps
    assert [event.data["kind"] for event in outcome.seen if event.kind == "artifact"] == ["adapter", "merged"]


def test_what_does_not_hold_a_run_costs_it_no_attempt(outcome: Outcome) -> None:
    assert len(outcome.killed) == len(VICTIMS)
    assert not any(is_alive(process) for process in outcome.killed)
    begun = [event.data for event in outcome.seen if event.kind == "state" and event.data["state"] == "preparing"]
    assert len(begun) == 1, outcome.log
