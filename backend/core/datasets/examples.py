"""Small data sets of our own sentences, for a first try without a file. The same ones every time."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backend.core.errors import NotFound

SEED = 7
ANIMALS = {
    "cat": ("meows", "fish"),
    "dog": ("barks", "meat"),
    "cow": ("moos", "grass"),
    "owl": ("hoots", "mice"),
    "lion": ("roars", "meat"),
    "duck": ("quacks", "bread"),
    "horse": ("neighs", "hay"),
    "frog": ("croaks", "flies"),
}
PLACES = ("garden", "forest", "kitchen", "market", "harbour", "field")
THINGS = ("kite", "lamp", "cup", "hat", "drum", "clock")
COLOURS = ("red", "blue", "green", "white")
DAYS = ("Monday", "Tuesday", "Thursday", "Friday")


@dataclass(frozen=True)
class Example:
    """One data set: what it is called, and the rows it is made of."""

    name: str
    format: str
    rows: int
    row: Callable[[random.Random], dict[str, Any]]

    def file(self) -> bytes:
        """The rows as JSONL, each of them once."""
        draw = random.Random(SEED)
        lines: dict[str, None] = {}
        while len(lines) < self.rows:
            lines[json.dumps(self.row(draw))] = None
        return "".join(f"{line}\n" for line in lines).encode()


def _question(draw: random.Random) -> dict[str, Any]:
    animal = draw.choice(list(ANIMALS))
    sound, food = ANIMALS[animal]
    asks, answer = draw.choice([("What does the {} eat?", f"eats {food}"), ("How does the {} sound?", sound)])
    place = draw.choice(PLACES)
    return {
        "instruction": asks.format(animal),
        "input": f"The {animal} is in the {place}.",
        "output": f"Arr, the {animal} in the {place} {answer}, matey!",
    }


def _chat(draw: random.Random) -> dict[str, Any]:
    thing, colour, day = draw.choice(THINGS), draw.choice(COLOURS), draw.choice(DAYS)
    turns = [
        ("system", "You help the customers of a small shop, briefly and kindly."),
        ("user", f"Where is the {colour} {thing} that I ordered?"),
        ("assistant", f"It is on its way. The {colour} {thing} will be with you on {day}."),
        ("user", draw.choice(["Can it come earlier?", "May I send it back?"])),
        ("assistant", f"Yes: write to us before {day}, and we will see to it."),
    ]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _story(draw: random.Random) -> dict[str, Any]:
    animal, place, thing = draw.choice(list(ANIMALS)), draw.choice(PLACES), draw.choice(THINGS)
    colour, (sound, food) = draw.choice(COLOURS), ANIMALS[animal]
    return {
        "text": f"Once there was a {animal} who lived near the {place}. One day it found a {colour} {thing}. "
        f"The {animal} {sound} with joy, hid the {thing}, and went to eat {food}."
    }


EXAMPLES = {
    "questions": Example("pirate questions", "alpaca", 90, _question),
    "chats": Example("shop chats", "messages", 90, _chat),
    "stories": Example("short stories", "text", 120, _story),
}


def example(name: str) -> Example:
    """Raises `NotFound`."""
    if found := EXAMPLES.get(name):
        return found
    raise NotFound("There is no such example.", hint="Choose one of those on the page of data sets.")
