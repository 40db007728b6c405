"""From the request of a click to the first training step: a whole studio here, a tiny model, a spare trainer that waits, or none.

The clock runs from the sending of the launch until the run, asked over HTTP, tells its first step: Postgres has it by then. The
trainer's own journal tells the parts. A studio reads all rows of a recipe before it takes it, once. While somebody fills in the
form, its preflight has that done as soon as nothing changes any more, so that the click finds it remembered; a program that
launches without a preflight waits for it. Both are measured, each round with a data set that nobody has used: sent by a program,
and of the smallest size by a click in a browser, too. A launch directly after a run, when no spare is ready, is a row of its own.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Page, expect

from backend.commands.client import Client, Refused
from backend.core.assignment import JOURNAL
from backend.web.shapes.launch import PreflightOut
from benchmarks.measure import span
from benchmarks.rows import Asked, Row, growth, row
from tests.support.browsers import running_chromium
from tests.support.labs import USUAL
from tests.support.models import save_base
from tests.support.processes import is_idle, wait_until
from tests.support.rows import chat_rows
from tests.support.studios import Studio, first_admin, running_studio
from tests.support.trouble import signed_in

ROUNDS = 3
COUNTS, COMPARED = (60, 600, 3000, 6000), (60, 3000, 6000)
"""Of what is compared as many lie between the last two as between the first: what the clock cannot tell weighs the same."""
MOST_SECONDS = 2.0
TOLD_APART_SECONDS = 0.05
"""What the clock of a few rounds tells apart: less between two sizes counts as much as this."""
Rounds = Sequence[Mapping[str, float]]
DATA: dict[str, Any] = {"max_length": 128}
RECIPE: dict[str, Any] = {
    "model": "tiny",
    "method": {"kind": "lora", "r": 4},
    "training": {"max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1},
    "evaluation": {"eval_share": 0, "prompts": []},
}


@dataclass(frozen=True)
class Launches:
    """Of one size of data, round by round: the seconds of each part, with rows that a preflight has read and with new ones."""

    known: list[dict[str, float]] = field(default_factory=list)
    clicked: list[dict[str, float]] = field(default_factory=list)
    first: list[dict[str, float]] = field(default_factory=list)


def measure(_asked: Asked) -> Sequence[Row]:
    found = {count: Launches() for count in COUNTS}
    with tempfile.TemporaryDirectory() as given, ExitStack() as stack:
        studio = stack.enter_context(running_studio(save_base(Path(given) / "tiny"), **USUAL))
        client = stack.enter_context(studio.client())
        browser, cookie = stack.enter_context(running_chromium()), first_admin(studio).cookies["studio"]
        page = stack.enter_context(signed_in(browser, studio.address, str(cookie))).new_page()
        for number, (count, launches), kind in product(range(ROUNDS), found.items(), ("first", "known", "clicked")):
            if kind == "clicked" and count != COUNTS[0]:
                continue
            data = f"{kind}-{count}-{number}"
            client.put_dataset(data, write_chats(Path(given) / f"{data}.jsonl", count, data), on_bytes=lambda _: None)
            if kind == "known":
                client.ask(PreflightOut, "POST", "/preflight", json=recipe_of(data))
            elif kind == "clicked":
                fill_in(page, data)
            wait_for_a_spare(studio)
            send = partial(click, page, data) if kind == "clicked" else partial(sent, client, data)
            getattr(launches, kind).append(launch(studio, client, send))
        data = f"known-{COUNTS[0]}-{ROUNDS - 1}"
        again = partial(sent, client, data)
        launch(studio, client, again)
        cold = [
            launch(studio, client, again) for _ in range(ROUNDS)
        ]  # directly after another: no spare has begun to load
    return rows_of(found, cold)


def rows_of(found: Mapping[int, Launches], cold: Rounds) -> Sequence[Row]:
    known, first = ({count: getattr(each, kind) for count, each in found.items()} for kind in ("known", "first"))
    form, program = "a launch whose rows a preflight has read", "a launch without a preflight"
    return [
        row_of(
            "click", "from a click in a browser to the first step", found[COUNTS[0]].clicked, "a spare trainer waits"
        ),
        row_of("click", f"from {form} to the first step", known[COUNTS[0]], "a spare trainer waits"),
        row_of("click", f"from {program} to the first step", first[COUNTS[0]], "its rows are read meanwhile"),
        row_of("click-cold", f"from {form} to the first step, directly after a run", cold, "no spare trainer is ready"),
        grown(f"what each further row adds to {form}", known),
        grown(f"what each further row adds to {program}", first),
    ]


def row_of(row_id: str, what: str, rounds: Rounds, beside: str) -> Row:
    parts = ", ".join(f"{name} {median(rounds, name):.2f}" for name in rounds[0])
    ranged = span([each["whole"] for each in rounds])
    return row(row_id, what, "s", median(rounds, "whole"), most=MOST_SECONDS, beside=f"{ranged}: {parts}; {beside}")


def grown(what: str, rounds: Mapping[int, Rounds]) -> Row:
    """What a launch costs with no rows at all would hide in a whole what grows with them: what each further row adds is told."""
    wholes = [(count, median(each, "whole")) for count, each in rounds.items()]
    between = [*pairwise(each for each in wholes if each[0] in COMPARED)]
    costs = [max(more - less, TOLD_APART_SECONDS) / (many - few) * 1e3 for (few, less), (many, more) in between]
    sizes = [f"from {few:,} to {many:,}" for (few, _less), (many, _more) in between]
    found = growth("click-growth", what, costs, at=sizes, of="rows", unit="ms", digits=3)
    return replace(found, beside=f"{found.beside}; {' → '.join(f'{whole:.2f}' for _count, whole in wholes)} s in all")


def median(rounds: Rounds, name: str) -> float:
    return statistics.median(each[name] for each in rounds)


def write_chats(path: Path, count: int, greeting: str) -> Path:
    """Rows that no other data set has."""
    lines = [
        {"messages": [{"role": each.role, "content": f"{greeting}: {each.content}"} for each in row.messages]}
        for row in chat_rows(count)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def recipe_of(data: str) -> dict[str, Any]:
    return RECIPE | {"data": DATA | {"sets": [data]}}


def fill_in(page: Page, data: str) -> None:
    """The page of a new run with the same recipe, until its rows are read and it is ready."""
    choices = {
        "view": "advanced",
        "dataset": data,
        "data.max_length": DATA["max_length"],
        "model.path": RECIPE["model"],
    }
    choices |= {f"{part}.{name}": value for part in ("method", "training") for name, value in RECIPE[part].items()}
    page.goto(f"/runs/new?{urlencode(choices | {'evaluation.eval_share': 0})}")
    page.fill("[name=name]", data)
    expect(page.locator("#preflight-title")).to_contain_text("Ready", timeout=60_000)
    expect(page.locator("#preflight[data-unread]")).to_have_count(0, timeout=60_000)


def click(page: Page, data: str) -> str:
    page.click("#preflight [data-start]")
    return data


def sent(client: Client, data: str) -> str:
    return client.launch(recipe_of(data)).name


def launch(studio: Studio, client: Client, send: Callable[[], str]) -> dict[str, float]:
    """Seconds of each part, in order. What sends the launch returns the run's name."""
    clicked = time.time()
    name = send()
    answered = time.time()
    while not has_stepped(client, name):
        time.sleep(0.01)
    seen = time.time()
    while client.run(name).state not in ("succeeded", "failed"):
        time.sleep(0.1)
    journal = studio.home / "runs" / str(client.run(name).id) / "attempt-1" / JOURNAL
    return parts_of([json.loads(line) for line in journal.read_text().splitlines()], clicked, answered, seen)


def has_stepped(client: Client, name: str) -> bool:
    try:
        return client.run(name).step > 0
    except Refused:  # the click is still on its way
        return False


def parts_of(lines: Sequence[Mapping[str, Any]], clicked: float, answered: float, seen: float) -> dict[str, float]:
    phases = {line["data"]["phase"]: line["t"] for line in reversed(lines) if line["kind"] == "phase"}
    stepped = next(line["t"] for line in lines if line["kind"] == "metrics")
    return {
        "whole": seen - clicked,
        "answer": answered - clicked,
        "claim and inputs": phases["loading"] - answered,
        "load": phases["preparing"] - phases["loading"],
        "prepare": phases["training"] - phases["preparing"],
        "first step": stepped - phases["training"],
        "into Postgres": seen - stepped,
    }


def wait_for_a_spare(studio: Studio) -> None:
    """Until the last trainer is gone, and the spare has imported everything and sleeps."""

    def is_waiting() -> bool:
        trainers = studio.children("worker.trainer")
        return len(trainers) == 1 and is_idle(trainers[0], 300e6)

    wait_until(is_waiting, seconds=120, what="a spare trainer")
