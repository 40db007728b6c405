"""Runs beside each other."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from backend.web.shapes.common import Json, Out
from backend.web.shapes.runs import RunOut


class ComparedOut(Out):
    """A run beside others. Figures are null until they are known."""

    run: RunOut
    short: str = Field(examples=["r16"], description="Its name without what all of them begin with.")
    recipe: Json = Field(description="Every setting, as changes in mid-run have left it.")
    eval_loss: float | None = Field(None, description="The lowest.")
    eval_loss_step: int | None = None
    steps_a_pass: int | None = None
    busy_seconds: float = Field(description="How long workers were at it; waits do not count.")
    step_seconds: float | None = None
    tokens_per_second: float | None = None
    peak_memory_gib: float | None = None
    device: str = ""
    adapter_bytes: int | None = None
    held_back_rows: int | None = None
    merged: str | None = Field(None, description="Where its merged model is downloaded.")


class ComparedSettingOut(Out):
    name: str = Field(examples=["method.r"])
    values: list[Any] = Field(description="By run, in the order that was asked for; null where a run does not have it.")
    differs: list[bool] = Field(description="Whether each run has it otherwise than the first.")


class VerdictOut(Out):
    """Which run is best so far. With `obstacles` that cannot be said: their losses do not measure the same."""

    best: str | None = None
    lead: float | None = Field(None, description="How far its evaluation loss is below the next one's.")
    obstacles: list[Literal["model", "data", "held_back", "learned", "length"]]
    measured: int = Field(description="How many of them have an evaluation loss.")


class ComparisonOut(Out):
    """Two to six runs beside each other. Curves are those of each run: GET /api/v1/runs/{run}/metrics."""

    runs: list[ComparedOut]
    verdict: VerdictOut
    settings: list[ComparedSettingOut]
