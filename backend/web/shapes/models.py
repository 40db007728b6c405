"""Base models, here and on the hub, and where they fit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from backend.web.shapes.common import Json, Out, ProblemOut


class FitOut(Out):
    """About how much memory a method needs at the worst moment of a step, and whether an accelerator has it."""

    accelerator: str = Field(examples=["rtx-4090-24"], description="A device of a live worker, or a size in GiB.")
    memory_bytes: int
    method: str = Field(examples=["qlora"])
    verdict: Literal["fits", "tight", "too_big"] = Field(description="`tight`: less than a tenth would be left.")
    bytes: int
    parts: dict[str, int] = Field(examples=[{"weights": 5_400_000_000, "activations": 1_200_000_000}])
    most_rows: int = Field(description="How many rows fit at once, as a power of two up to 64; 0 where not even one.")


class BaseOut(Out):
    """A base model. `facts`: architecture, parameters, bytes, dtype, context length, vocabulary, template, licence."""

    path: str = Field(examples=["stories260k"])
    revision: str | None = None
    kind: Literal["base", "instruct"] = Field(
        "base", description="Whether it was taught to answer, as far as can be seen."
    )
    facts: Json
    problem: ProblemOut | None = Field(None, description="Why it cannot be used, if it cannot.")
    fits: list[FitOut] = Field([], description="By accelerator and method; empty where the model's shape is not known.")


class HubModelOut(Out):
    """A model on the hub, as it can be judged before anything is downloaded."""

    id: str = Field(examples=["Qwen/Qwen3-0.6B"])
    revision: str = Field(description="The commit that a download takes.")
    kind: Literal["base", "instruct"] = "base"
    parameters: int | None = None
    bytes: int | None = Field(None, description="What a download takes.")
    downloads: int = 0
    licence: str | None = None
    gated: bool = Field(False, description="Its terms must be accepted on the hub first.")
    address: str = Field(description="Its page on the hub.")
    facts: Json
    problem: ProblemOut | None = Field(None, description="Why it cannot be used, if it cannot.")
    fits: list[FitOut] = Field([])
