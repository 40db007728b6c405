"""What a run's events add up to, and how a terminal and a pipe show it."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from rich.console import Console

from backend.commands.following import Bar, Lines, Picture, display
from backend.web.shapes.runs import EventOut

RUN = UUID(int=1)


def event(kind: str, step: int = 0, **data: Any) -> EventOut:
    return EventOut(run=RUN, seq=1, at=datetime.now(UTC), kind=kind, step=step, attempt=1, data=data)


HISTORY = [
    event("state", state="queued", cause=None),
    event("state", state="preparing", cause=None),
    event("phase", phase="loading"),
    event("facts", total_steps=20),
    event("phase", phase="training"),
    event("sample", index=0, prompt="?", text="The owl\neats [mice].", tokens=5, finish="stop"),
    event("sample", index=1, prompt="!", text="Another prompt's.", tokens=5, finish="stop"),
    event("metrics", 1, values={"loss": 6.14159, "grad_norm": 1.0}),
    event("metrics", 2, values={"loss": "NaN", "eval_loss": 5.5}),
]


def picture_of(events: list[EventOut]) -> Picture:
    picture = Picture()
    for each in events:
        picture.take(each)
    return picture


def test_events_add_up_to_a_picture() -> None:
    picture = picture_of(HISTORY)
    assert (picture.state, picture.title(), picture.step, picture.total) == ("preparing", "training", 2, 20)
    assert picture.numbers() == "loss NaN · eval 5.5"
    assert picture.sample() == "The owl eats [mice]."


def test_a_rewound_run_counts_its_steps_from_there() -> None:
    assert picture_of([*HISTORY, event("rewound", 1)]).step == 1


def test_long_work_is_shown_until_the_next_step() -> None:
    working = picture_of([*HISTORY, event("progress", what="merging", done=3, total=10)])
    assert (working.title(), working.work) == ("merging", ("merging", 3, 10))
    working.take(event("metrics", 3, values={}))
    assert working.work is None


def test_a_failure_is_told_with_its_cause() -> None:
    cause = {"code": "oom", "message": "Out of memory at step 12.", "hint": "Try batch 2."}
    failed = picture_of([event("state", state="failed", cause=cause)])
    assert (failed.title(), failed.cause) == ("failed", "Out of memory at step 12. Try batch 2.")


def shown(console: Console) -> str:
    shows = display(console, "a [bold] name")
    picture = Picture()
    with shows:
        for each in HISTORY:
            picture.take(each)
            shows.show(picture, each)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_pipe_gets_a_line_for_each_thing_that_happens() -> None:
    console = Console(file=io.StringIO(), width=60)
    assert isinstance(display(console, "x"), Lines)
    assert shown(console).splitlines() == [
        "queued",
        "preparing",
        "loading",
        "training",
        "step 0: “The owl eats [mice].”",
        "step 2/20 loss NaN · eval 5.5",
    ]


def test_a_terminal_gets_a_bar_with_numbers_and_the_newest_sample() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system=None)
    assert isinstance(display(console, "x"), Bar)
    last = shown(console)
    for words in ("a [bold] name: training", "2/20", "loss NaN · eval 5.5", "The owl eats [mice]."):
        assert words in last
