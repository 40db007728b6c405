"""A run as it is followed from a terminal: what its events add up to, and two ways to show that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from backend.commands.client import Client
from backend.core.events import EventKind
from backend.core.models import ENDED, State
from backend.web.shapes.runs import EventOut, RunDetailOut

STILL = (State.PAUSED, *ENDED)
"""States that nothing but a person's word changes."""
SHOWN_SAMPLE = 100


@dataclass
class Picture:
    """What the events so far add up to."""

    state: str = State.QUEUED
    cause: str = ""
    phase: str = ""
    step: int = 0
    total: int | None = None
    values: dict[str, float | str] = field(default_factory=dict)
    samples: dict[int, str] = field(default_factory=dict)
    """The newest answer to each prompt."""
    work: tuple[str, int, int] | None = None
    """Long work beside the steps: what, how much of it is done, and of how much."""

    def take(self, event: EventOut) -> None:
        data = event.data
        match event.kind:
            case EventKind.STATE:
                self.state, self.work = data["state"], None
                cause = data.get("cause") or {}
                self.cause = " ".join(filter(None, (cause.get("message"), cause.get("hint"))))
            case EventKind.PHASE:
                self.phase, self.work = data["phase"], None
            case EventKind.FACTS:
                self.total = data.get("total_steps", self.total)
            case EventKind.METRICS:
                self.step, self.work = event.step, None
                self.values |= data["values"]
            case EventKind.SAMPLE:
                self.samples[data["index"]] = data["text"]
            case EventKind.PROGRESS if data.get("total"):
                self.work = (str(data["what"]), int(data["done"]), int(data["total"]))
            case EventKind.REWOUND:
                self.step = event.step

    def numbers(self) -> str:
        """`loss 0.41 · eval 0.52`, with what is known."""
        titles = {"loss": "loss", "eval_loss": "eval"}
        return " · ".join(
            f"{title} {figure(self.values[name])}" for name, title in titles.items() if name in self.values
        )

    def sample(self) -> str:
        """The newest answer to the first prompt, in one line."""
        return " ".join(self.samples.get(0, "").split())[:SHOWN_SAMPLE]

    def title(self) -> str:
        if self.state in STILL or self.state == State.QUEUED:
            return self.state
        return self.work[0] if self.work else self.phase or self.state


def figure(value: float | str) -> str:
    """A metric in four significant digits; NaN and the infinities come as words."""
    return value if isinstance(value, str) else f"{value:.4g}"


class Display(Protocol):
    """Shows a run while it is followed. Use it as a context."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, picture: Picture, event: EventOut) -> None: ...


class Bar:
    """For a terminal: a bar with the numbers, and the newest sample below it."""

    def __init__(self, console: Console, name: str) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.task: TaskID = self.bar.add_task(escape(name), total=1, numbers="")
        self.name, self.below = name, Text()
        self.live = Live(Group(self.bar, self.below), console=console, refresh_per_second=8)

    def __enter__(self) -> Bar:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def show(self, picture: Picture, event: EventOut) -> None:  # noqa: ARG002 -- the picture says enough
        done, total = picture.work[1:] if picture.work else (picture.step, picture.total or 1)
        title = f"{escape(self.name)}: {escape(picture.title())}"
        self.bar.update(self.task, description=title, completed=done, total=total, numbers=picture.numbers())
        self.below = Text(picture.sample(), style="cyan", overflow="ellipsis", no_wrap=True)
        self.live.update(Group(self.bar, self.below))


class Lines:
    """For a file or a pipe: one line for each thing that happens, and for about each tenth of the steps."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.told = 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, picture: Picture, event: EventOut) -> None:
        match event.kind:
            case EventKind.STATE | EventKind.PHASE:
                self._say(f"{picture.title()} {picture.cause}".strip())
            case EventKind.SAMPLE if event.data["index"] == 0:
                self._say(f"step {event.step}: “{picture.sample()}”")
            case EventKind.METRICS if event.step - self.told >= max(1, (picture.total or 10) // 10):
                self.told = event.step
                self._say(f"step {event.step}/{picture.total or '?'} {picture.numbers()}")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def display(console: Console, name: str) -> Display:
    return Bar(console, name) if console.is_terminal else Lines(console)


def watch(client: Client, name: str, shown: Display) -> RunDetailOut:
    """Show a run until nothing but a person's word would change it; returns how it stands then."""
    picture, history = Picture(), client.run(name).seq
    with shown:
        for event in client.events(name):
            picture.take(event)
            shown.show(picture, event)
            # The history may tell of pauses that are long over, so only its end counts, and what comes after it.
            if picture.state in STILL and event.seq >= history:
                break
    return client.run(name)
