"""Those outside a studio while it is struck: people who launch runs and change their minds, and clients who follow each run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import httpx

from backend.commands.client import Client, Refused, Unreachable
from backend.core.errors import StudioError
from backend.web.shapes.runs import RunDetailOut, RunOut
from tests.faults.history import Said, Seen
from tests.faults.words import AMENDED_FIELD
from tests.support.hosts import RECIPE

PATIENCE_SECONDS = 600.0
PAUSE_SECONDS = 0.3
GOING = ("queued", "preparing", "training", "finishing")
DONE = ("succeeded", "stopped")
MIND = {"training": 0.1}
"""How likely it is each time that somebody changes their mind about a run, by its state, and of any other that goes on: who
is to be obeyed at once is found in mid-training alone."""
ANY_MIND = 0.02
RESUMES = 20
"""How often one run is resumed while the studio comes to rest: more is a run that never gets on."""
WORDS = {
    "pause": "run.pause",
    "resume": "run.resume",
    "amend": "run.amend",
    "keep": "run.stop",
    "discard": "run.discard",
    "restore": "run.restore",
}
"""What people say of a run that was launched, and what the audit log calls it."""
EXPECTED = {409, 429, 502, 503, 504}
"""Refusals that a studio under fault may give: not now, or not in this state."""


def recipe(name: str, steps: int) -> dict[str, Any]:
    """A run of some seconds, with checkpoints, measurements and samples on the way."""
    return RECIPE | {
        "name": name,
        "data": RECIPE["data"] | {"truncation": "drop"},
        "training": RECIPE["training"] | {"max_steps": steps, "gradient_accumulation_steps": 2},
        "saving": {"save_steps": 4},
    }


def unexpected(refused: Refused) -> list[str]:
    """What is wrong with a refusal; nothing where it had to be reckoned with."""
    return [] if refused.status in EXPECTED else [f"status {refused.status}: {refused.message}"]


class Follower(threading.Thread):
    """Reads one run's events from the first to the last, through every break of the connection."""

    def __init__(self, client: Client, run: str, name: str) -> None:
        super().__init__(name=f"follower of {name}", daemon=True)
        self.client, self.run_id, self.run_name = client, run, name
        self.seen: list[Seen] = []
        self.wrong: list[str] = []
        self.is_closed = False

    @property
    def last(self) -> int:
        return self.seen[-1].seq if self.seen else 0

    def run(self) -> None:
        """The stream of an ended run ends, and begins again where somebody resumed it."""
        while not self.is_closed:
            try:
                self._read()
            except Refused as refused:
                self.wrong += unexpected(refused)
            except (Unreachable, httpx.HTTPError, RuntimeError):
                pass  # nobody answers just now, or the client was closed
            time.sleep(1.0)

    def _read(self) -> None:
        for event in self.client.events(self.run_name, after=self.last):
            self.seen.append(Seen(time.time(), self.name, self.run_id, event.seq, event.kind, event.step, event.data))


class People(threading.Thread):
    """Keeps a few runs going and says words about them, until told to bring all of them to their end."""

    def __init__(self, client: Callable[[float], Client], dice: Random, *, steps: int, alive: int) -> None:
        super().__init__(name="people", daemon=True)
        self.dice, self.steps, self.alive = dice, steps, alive
        self.client, self._stream = client(5.0), client(PATIENCE_SECONDS)
        self.followers: dict[str, Follower] = {}
        self.words: list[Said] = []
        self._wrong: list[str] = []
        self._count, self._resumes = 0, dict[str, int]()
        self.is_calm = True
        """Nobody says a word about a run that goes on."""
        self._is_resting, self._is_closed = False, False
        self._launching: dict[str, Any] | None = None

    # ---- from outside --------------------------------------------------------------------------------------------

    @property
    def accepted(self) -> list[str]:
        return list(self.followers)

    @property
    def is_idle(self) -> bool:
        """Whether no launch waits for its answer."""
        return self._launching is None

    @property
    def said(self) -> Counter[str]:
        """How often each word was taken."""
        names = {action: word for word, action in WORDS.items()}
        return Counter(names[said.action] for said in self.words)

    def rest(self) -> None:
        """Launch nothing more, change no mind, and resume what waits for a person."""
        self._is_resting = self.is_calm = True

    def close(self) -> None:
        self._is_closed = True
        for follower in self.followers.values():
            follower.is_closed = True
        self._stream.http.close()
        self.join(30)

    @property
    def wrong(self) -> list[str]:
        """Answers that nobody may get."""
        return [*self._wrong, *(each for follower in self.followers.values() for each in follower.wrong)]

    def seen(self) -> list[Seen]:
        return [each for follower in self.followers.values() for each in follower.seen]

    # ---- in the thread -------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._is_closed:
            with self._expecting_refusals():
                self._turn(self.client.runs(limit=200))
            time.sleep(PAUSE_SECONDS)

    @contextmanager
    def _expecting_refusals(self) -> Iterator[None]:
        try:
            yield
        except Refused as refused:
            self._wrong += unexpected(refused)
        except (StudioError, httpx.HTTPError):
            pass  # nobody answers just now

    def _turn(self, runs: list[RunOut]) -> None:
        if self._launching is not None or (not self._is_resting and self._wants_more(runs)):
            self._launch()
        for run in runs:
            with self._expecting_refusals():
                self._speak(run)

    def _wants_more(self, runs: list[RunOut]) -> bool:
        return sum(run.state in GOING for run in runs) < self.alive

    def _launch(self) -> None:
        """Under a key of its own, and under the same key again until there is an answer."""
        if self._launching is None:
            self._count += 1
            self._launching = recipe(f"run-{self._count}", self.steps)
        headers = {"Idempotency-Key": self._launching["name"]}
        made = self.client.ask(RunDetailOut, "POST", "/runs", json=self._launching, headers=headers)
        self._launching = None
        self.followers[str(made.id)] = follower = Follower(self._stream, str(made.id), made.name)
        follower.start()

    def _speak(self, run: RunOut) -> None:
        if run.state in ("paused", "failed"):
            if self._is_resting or self.dice.random() < 0.3:
                self._resume(run)
        elif run.state in GOING and not self.is_calm and self.dice.random() < MIND.get(run.state, ANY_MIND):
            self._change_mind(run)
        elif run.discarded_at and not self.is_calm and self.dice.random() < 0.1:
            self._tell(run, "restore")

    def _resume(self, run: RunOut) -> None:
        count = self._resumes[run.name] = self._resumes.get(run.name, 0) + 1
        if count <= RESUMES:
            self._tell(run, "resume")

    def _change_mind(self, run: RunOut) -> None:
        word = self.dice.choices(("pause", "amend", "keep", "discard"), (6, 6, 2, 1))[0]
        self._tell(run, word)

    def _tell(self, run: RunOut, word: str) -> None:
        """Kept where the studio says yes: a word whose answer broke off may never have come."""
        value = None
        match word:
            case "amend":
                value = self.dice.uniform(1e-3, 1e-2)
                body = {"field": AMENDED_FIELD, "value": value}
                self.client.ask(dict, "POST", f"/runs/{run.name}/amendments", json=body)
            case "keep" | "discard":
                self.client.tell(run.name, "stop", keep=word == "keep")
            case _:
                self.client.tell(run.name, word)
        self.words.append(Said(str(run.id), WORDS[word], value))
