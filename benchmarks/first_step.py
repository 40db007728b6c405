"""From the click to the first training step: a whole studio on this machine, a tiny model, a spare trainer that waits.

The clock runs from the sending of the launch until the run, asked over HTTP, tells its first step: Postgres has it by then. The
trainer's own journal tells the parts.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.commands.client import Client
from backend.core.assignment import JOURNAL
from benchmarks.rows import Asked, Row, growth, row
from tests.support.models import save_base
from tests.support.processes import is_idle, wait_until
from tests.support.rows import chat_rows
from tests.support.studios import Studio, running_studio

ROUNDS = 5
COUNTS = (60, 600, 6000)
MOST_SECONDS = 2.0
DATA: dict[str, Any] = {"max_length": 128}
RECIPE: dict[str, Any] = {
    "model": "tiny",
    "method": {"kind": "lora", "r": 4},
    "training": {"max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1},
    "evaluation": {"eval_share": 0, "prompts": []},
}


def measure(_asked: Asked) -> Sequence[Row]:
    with tempfile.TemporaryDirectory() as given:
        base = save_base(Path(given) / "tiny")
        files = {count: write_chats(Path(given) / f"chats-{count}.jsonl", count) for count in COUNTS}
        usual = {"STUDIO_LEASE_SECONDS": "30", "STUDIO_RENEW_SECONDS": "5"}  # tests have a studio look more often
        with running_studio(base, **usual) as studio, studio.client() as client:
            for count, file in files.items():
                client.put_dataset(f"chats-{count}", file, on_bytes=lambda _count: None)
            rounds = [launch(studio, client, COUNTS[0], f"run-{number}") for number in range(ROUNDS)]
            more = [launch(studio, client, count, f"of-{count}")["whole"] for count in COUNTS[1:]]
    parts = ", ".join(f"{name} {statistics.median(each[name] for each in rounds):.2f}" for name in rounds[0])
    whole = statistics.median(each["whole"] for each in rounds)
    return [
        row("click", "from the click to the first step", "s", whole, most=MOST_SECONDS, beside=parts),
        growth(
            "click-growth", "the same with 100 times the rows", [whole, *more], at=COUNTS, of="rows", unit="s", most=10
        ),
    ]


def write_chats(path: Path, count: int) -> Path:
    lines = [
        {"messages": [{"role": each.role, "content": each.content} for each in row.messages]}
        for row in chat_rows(count)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def launch(studio: Studio, client: Client, count: int, name: str) -> dict[str, float]:
    """Seconds of each part, in order."""
    wait_for_a_spare(studio)
    clicked = time.time()
    client.launch(RECIPE | {"name": name, "data": DATA | {"sets": [f"chats-{count}"]}})
    answered = time.time()
    while not client.run(name).step:
        time.sleep(0.01)
    seen = time.time()
    while client.run(name).state not in ("succeeded", "failed"):
        time.sleep(0.1)
    journal = studio.home / "runs" / str(client.run(name).id) / "attempt-1" / JOURNAL
    return parts_of([json.loads(line) for line in journal.read_text().splitlines()], clicked, answered, seen)


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
