"""What comes before a run: saved recipes, and what a launch would do."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from backend.web.shapes.common import Json, Out, ProblemOut


class RecipeVersionOut(Out):
    number: int
    body: Json
    created_at: datetime


class RecipeOut(Out):
    name: str
    owner: str | None = None
    created_at: datetime
    version: RecipeVersionOut = Field(description="The newest version.")
    versions: int


class NeedOut(Out):
    """About how much memory and time the run takes on one kind of accelerator, by closed formulas."""

    title: str = Field(examples=["NVIDIA GeForce RTX 4090"])
    workers: list[str] = Field(description="The worker of each such accelerator.")
    memory_bytes: int
    needed_bytes: int
    parts: dict[str, int] = Field(description="Bytes for weights, gradients, optimizer, activations and overhead.")
    verdict: Literal["fits", "tight", "too_big"]
    seconds: float | None = Field(None, description="Null where nothing can be said honestly.")


class RemedyOut(Out):
    words: str = Field(examples=["Use 16"])
    settings: dict[str, str] = Field(examples=[{"method.r": "16"}], description="The settings that it changes.")


class AdviceOut(ProblemOut):
    """A warning. It stops nothing; a serious one will most likely end the run."""

    is_serious: bool
    remedies: list[RemedyOut]


class PreflightOut(Out):
    """What would happen if this recipe were launched now. With `problems` it would be refused."""

    recipe: Json = Field(description="The recipe, every setting written out.")
    problems: list[ProblemOut]
    notes: list[ProblemOut] = Field(description="Old names that were translated.")
    report: Json | None = Field(None, description="Rows, tokens, trained tokens, lengths.")
    steps: Json | None = Field(None, examples=[{"total": 240, "per_epoch": 120, "rows": 8}])
    facts: Json = Field(description="What the tokenizer was given: the template's source, added tokens.")
    needs: list[NeedOut] = Field(description="Memory and time on the accelerators that are here.")
    tokens_read: int | None = Field(None, description="Over the whole run.")
    tokens_learned: int | None = None
    disk_bytes: int | None = Field(None, description="Checkpoints, adapter and merged model.")
    advice: list[AdviceOut] = Field(description="What experience warns of.")
