"""Runs, and what they leave: events, curves, samples, checkpoints, artifacts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from backend.web.shapes.common import Json, Out, ProblemOut, Value

StateName = Literal["queued", "preparing", "training", "finishing", "paused", "stopped", "failed", "succeeded"]


class RunOut(Out):
    """A run as a list shows it, and as the stream of many runs tells it."""

    id: UUID
    name: str = Field(examples=["stories260k-qlora-1"])
    owner: str | None = None
    parent: str | None = Field(None, description="The run that this one is a clone of.")
    state: StateName
    intent: Literal["run", "pause", "stop", "keep"] = Field(description="What is wanted of it.")
    attempt: int = Field(description="Grows each time that a worker takes it, in a restored studio by a leap.")
    worker: str | None = Field(None, description="The worker that holds it now.")
    seq: int = Field(description="The number of its newest event.")
    step: int
    total_steps: int | None = None
    latest: Json = Field(description="The newest value of each metric.")
    progress: Json
    cause: ProblemOut | None = Field(None, description="Why it failed or waits.")
    model: str = Field(examples=["stories260k"])
    method: str = Field(examples=["qlora"])
    data: list[str] = Field(examples=[["support-answers v1"]])
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    discarded_at: datetime | None = None


class Choices(Out):
    """What lists of runs can be narrowed by."""

    models: list[str]
    datasets: list[str]
    people: list[str]


class WaitOut(Out):
    """Why nothing moves: the host that is needed is not heard of.

    `host_gone`: the run's checkpoints lie on it; the run goes on when it returns, or starts over elsewhere.
    `cut_off`: it holds the run and may train on; it learns of what was asked when it returns.
    """

    reason: Literal["host_gone", "cut_off"]
    worker: str
    since: datetime = Field(description="When it was heard of last.")


class RunDetailOut(RunOut):
    """Everything about a run but its curves, samples and events."""

    recipe: Json = Field(description="The recipe, every setting written out.")
    facts: Json = Field(description="What the trainer found: parameters, quantised layers, tokens, device.")
    notes: list[ProblemOut]
    note: str = Field("", description="What people wrote beside it.", examples=["Rank 16, as agreed."])
    base: Json = Field(description="The base model as it was pinned.")
    sets: list[Json] = Field(description="The data-set versions as they were pinned.")
    waits_for: WaitOut | None = Field(None, description="The host that the run waits for, where it is not heard of.")
    actions: list[str] = Field(
        description="What can be done with it now.", examples=[["pause", "stop", "discard", "amend", "clone"]]
    )


class EventOut(Out):
    """One event of a run's log. `kind` decides what `data` holds."""

    run: UUID
    seq: int
    at: datetime
    kind: str = Field(examples=["metrics"])
    step: int
    attempt: int
    data: Json


class CurvesOut(Out):
    """Curves as `[step, value]`, thinned so that no extreme is lost."""

    curves: dict[str, list[tuple[int, Value]]] = Field(examples=[{"loss": [[1, 6.14], [2, 5.9]]}])
    times: list[tuple[int, float]] = Field(
        [], description="When these steps were measured, in seconds since the epoch; with `times` alone."
    )
    steps_a_pass: int | None = Field(None, description="How many steps are one pass over the data.")
    seq: int = Field(description="Follow the events after this number to go on.")


class SampleOut(Out):
    step: int
    index: int
    prompt: str
    text: str
    finish: str = Field(examples=["eos"])
    tokens: int


class SamplesOut(Out):
    """Answers, those of the newest step first."""

    samples: list[SampleOut]
    next: int | None = Field(None, description="The `to` of the page behind it; null at the end.")


class AmendmentOut(Out):
    """A change in mid-run. `step` is the first step that it holds for; null until the trainer applied it."""

    sequence: int
    field: str = Field(examples=["training.learning_rate"])
    value: Any
    created_at: datetime
    step: int | None = None


class CheckpointOut(Out):
    """A checkpoint that the run can go on from."""

    step: int
    attempt: int
    bytes: int
    created_at: datetime


class AttemptOut(Out):
    """One claim of the run by a worker."""

    number: int
    worker: str = Field(examples=["gpu-box"])
    device: str = Field(examples=["cuda:0"])
    base_step: int = Field(description="The step that it went on from.")
    started_at: datetime
    ended_at: datetime | None = None
    cause: str | None = Field(
        None,
        examples=["paused"],
        description="Why it ended: the state that the run entered, or `lost` where its host fell silent.",
    )


class ArtifactOut(Out):
    """What a run gives away. `sha256` covers the list of files with their hashes; `facts` holds the proof."""

    id: UUID
    run: str = Field(description="The run's name.")
    kind: str = Field(examples=["merged"])
    step: int
    bytes: int
    sha256: str
    files: list[Json]
    facts: Json
    created_at: datetime
    download: str = Field(examples=["/api/v1/artifacts/0199…/download"])
