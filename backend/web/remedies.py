"""What a person can do about a run that failed or learns by heart, as settings of a clone. Rules: a run in, ways out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from backend.core.outlook import Outlook
from backend.web.contexts.runs import Remedy
from backend.web.shapes.runs import RunDetailOut

BATCH, ACCUMULATION = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
RISES = 2
"""So many measurements above the best are no chance."""
Found = tuple[str, Any, dict[str, Any]]
"""The kind of a remedy, the new value that names it, and every setting that it changes."""


def remedies(run: RunDetailOut, outlook: Outlook) -> list[Remedy]:
    """The likeliest first. A run that can simply go on has none."""
    found = found_for(run, outlook)
    return [Remedy(kind, value, clone_address(run.name, changes)) for kind, value, changes in found]


def found_for(run: RunDetailOut, outlook: Outlook) -> Iterator[Found]:
    code = run.cause.code if run.cause and run.state == "failed" else ""
    if code == "out_of_memory":
        yield from out_of_memory(run.recipe)
    elif code == "nan":
        rate = run.recipe["training"]["learning_rate"] / 10
        yield "rate", rate, {"training.learning_rate": rate}
    elif run.state != "failed":
        yield from overfitting(run.recipe, outlook)


def out_of_memory(recipe: dict[str, Any]) -> Iterator[Found]:
    """A smaller batch that sums to the same step, then recomputing: neither changes what is learned. QLoRA does."""
    training = recipe["training"]
    batch, accumulation = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    if batch > 1:
        same = {ACCUMULATION: accumulation * 2} if isinstance(accumulation, int) else {}
        yield "batch", batch // 2, {BATCH: batch // 2} | same
    if training["gradient_checkpointing"] is not True:
        yield "recompute", True, {"training.gradient_checkpointing": True}
    if recipe["method"]["kind"] != "qlora":
        yield "qlora", "qlora", {"method.kind": "qlora"}


def overfitting(recipe: dict[str, Any], outlook: Outlook) -> Iterator[Found]:
    """As many passes as it took to the best measurement, to a tenth. A number of steps would come before passes."""
    if outlook.best and outlook.worse_since_best >= RISES and outlook.steps_a_pass:
        passes = max(0.1, math.ceil(10 * outlook.best.step / outlook.steps_a_pass) / 10)
        by_passes = {"training.max_steps": -1} if recipe["training"]["max_steps"] > 0 else {}
        yield "passes", passes, {"training.num_train_epochs": passes} | by_passes


def clone_address(run: str, changes: dict[str, Any]) -> str:
    values = {name: "true" if value is True else value for name, value in changes.items()}
    return "/runs/new?" + urlencode({"clone": run, **values})
