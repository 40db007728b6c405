"""The page of a run, and the parts of it that are fetched again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.core.memory import Footprint
from backend.core.outlook import Outlook
from backend.web.contexts.page import Page
from backend.web.forms import Control
from backend.web.shapes.common import Json
from backend.web.shapes.runs import AmendmentOut, ArtifactOut, AttemptOut, CheckpointOut, RunDetailOut, SampleOut


@dataclass(frozen=True)
class Remedy:
    """A way out of what ails a run: a clone with other settings."""

    kind: str
    """`batch`, `recompute`, `qlora`, `rate` or `passes`."""
    value: Any
    """The new value that names it."""
    address: str
    """The form of that clone."""


@dataclass(frozen=True)
class Setting:
    """One setting of a run, beside its parent's where that differs."""

    name: str
    value: Any
    before: Any
    differs: bool


@dataclass(frozen=True)
class RunPage(Page):
    """Live by `/api/v1/runs/{id}/events?after={run.seq}` or `/api/v1/events?run={id}`; curves by `/api/v1/runs/{id}/metrics`.

    Acts: POST /runs/{name}/act with `act` = pause | resume | stop | discard | restore | start_over, answered by a redirect
    (or, for htmx, by the part `parts/run-status.html`). What changes is fetched again by parts, each of which says where.
    """

    template = "run.html"
    run: RunDetailOut
    outlook: Outlook
    remedies: list[Remedy]
    footprint: Footprint | None
    """What the memory was worked out to go to; null where the model does not tell enough."""
    curves: dict[str, list[Any]]
    rates_ahead: list[tuple[int, float]]
    samples: list[SampleOut]
    """The first answers, which are from before the training, and the newest."""
    left_out: tuple[int, int] | None
    """The first and the last of the steps between those, where answers are left out. `?to=` begins with the last."""
    artifacts: list[ArtifactOut]
    amendments: list[AmendmentOut]
    controls: list[Control]
    checkpoints: list[CheckpointOut]
    values: dict[int, dict[str, float]]
    """The metrics of the checkpoints' steps."""
    attempts: list[AttemptOut]
    log: list[Json]
    """The newest events worth a line, oldest first: {seq, at, kind, step, text, data}."""
    log_q: str
    log_level: str
    settings: list[Setting]
    recipe_yaml: str


@dataclass(frozen=True)
class RunStatusPart(Page):
    """GET /runs/{name}/status."""

    template = "parts/run-status.html"
    run: RunDetailOut
    outlook: Outlook
    checkpoints: list[CheckpointOut]
    remedies: list[Remedy]


@dataclass(frozen=True)
class RunMemoryPart(Page):
    """GET /runs/{name}/memory: known once a worker has taken the run."""

    template = "parts/run-memory.html"
    outlook: Outlook
    footprint: Footprint | None


@dataclass(frozen=True)
class RunNotePart(Page):
    """POST /runs/{name}/note with `note`; GET draws it again where somebody else wrote it."""

    template = "parts/run-note.html"
    run: RunDetailOut


@dataclass(frozen=True)
class RunLogPart(Page):
    """GET /runs/{name}/log?q=&level=: the newest lines that hold the words, or only warnings and errors."""

    template = "parts/run-log.html"
    run: RunDetailOut
    log: list[Json]
    log_q: str
    log_level: str


@dataclass(frozen=True)
class ArtifactsPart(Page):
    """GET /runs/{name}/artifacts."""

    template = "parts/artifacts.html"
    run: RunDetailOut
    artifacts: list[ArtifactOut]


@dataclass(frozen=True)
class RunHistoryPart(Page):
    """GET /runs/{name}/history: changes in mid-run, checkpoints, attempts."""

    template = "parts/run-history.html"
    run: RunDetailOut
    amendments: list[AmendmentOut]
    rates_ahead: list[tuple[int, float]]
    """The schedule of the learning rate as it is to go on, by step."""
    controls: list[Control]
    """The settings that may change in mid-run, as they stand."""
    outlook: Outlook
    checkpoints: list[CheckpointOut]
    values: dict[int, dict[str, float]]
    attempts: list[AttemptOut]


@dataclass(frozen=True)
class AmendPart(Page):
    """The form of the dialog. POST /runs/{name}/amend with the controls' names; answered by a redirect, or this for htmx."""

    template = "parts/run-amend.html"
    run: RunDetailOut
    controls: list[Control]
