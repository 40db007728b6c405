"""What a run would come to before it starts: steps, memory on each accelerator, time, disk. Pure: figures in, figures out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.core.memory import Footprint, Shape, Verdict, footprint, verdict
from backend.core.recipe import Recipe, resolve

CPU = "cpu"


@dataclass(frozen=True)
class Accelerator:
    """One kind of accelerator that workers have: all of one title and memory together."""

    title: str
    memory_bytes: int
    workers: tuple[str, ...]
    """The worker of each, so that its length is how many there are."""
    on_cpu: bool = False


@dataclass(frozen=True)
class Need:
    """What a recipe takes on one kind of accelerator. `seconds` is None where nothing can be said honestly."""

    accelerator: Accelerator
    footprint: Footprint
    verdict: Verdict
    seconds: float | None = None

    @property
    def over_bytes(self) -> int:
        return max(0, self.footprint.total - self.accelerator.memory_bytes)


@dataclass(frozen=True)
class Steps:
    """Optimizer steps as the trainer counts them, and the rows of one step on one accelerator."""

    total: int
    per_epoch: int
    rows: int


def steps_of(recipe: Recipe, *, train_rows: int, examples: int, max_length: int) -> Steps:
    """`examples` are the rows of an epoch after packing; without it they are `train_rows`."""
    training = resolve(recipe, train_rows=train_rows, context_length=max_length).training
    accumulation = int(training.gradient_accumulation_steps)
    per_epoch = math.ceil(math.ceil(examples / training.per_device_train_batch_size) / accumulation)
    total = training.max_steps if training.max_steps > 0 else math.ceil(per_epoch * training.num_train_epochs)
    return Steps(total, per_epoch, training.per_device_train_batch_size * accumulation)


def accelerators(devices: Iterable[tuple[str, str, str, int]]) -> tuple[Accelerator, ...]:
    """Devices `(worker, name, title, memory_bytes)` by kind, the largest first, CPUs last."""
    found: dict[tuple[str, int, bool], list[str]] = {}
    for worker, name, title, memory_bytes in devices:
        found.setdefault((title, memory_bytes, name == CPU), []).append(worker)
    kinds = [Accelerator(title, memory, tuple(names), cpu) for (title, memory, cpu), names in found.items()]
    return tuple(sorted(kinds, key=lambda each: (each.on_cpu, -each.memory_bytes, each.title)))


def needs(
    recipe: Recipe, shape: Shape, kinds: Sequence[Accelerator], *, longest: int | None = None
) -> tuple[Need, ...]:
    """The recipe's memory on each kind of accelerator whose memory is known."""
    found = []
    for kind in kinds:
        needed = footprint(shape, recipe, longest=longest, on_cpu=kind.on_cpu)
        found.append(Need(kind, needed, verdict(needed, kind.memory_bytes)))
    return tuple(found)


def with_method(recipe: Recipe, method: Any) -> Recipe:
    """The recipe with another method at its own recommendations, to say beside the choice what it would take."""
    training = recipe.training.model_copy(update={"learning_rate": method.learning_rate})
    return recipe.model_copy(update={"method": method, "training": training})


def disk_bytes(recipe: Recipe, shape: Shape) -> int:
    """What the run leaves behind: its checkpoints, its adapter where it makes one, and the merged model in 16 bits."""
    trained = recipe.method.trained_parameters(shape)
    weights = 4 * trained
    optimizer = (2 if "8bit" in recipe.training.optim else 8) * trained
    adapter = weights if recipe.method.makes_adapter else 0
    return recipe.saving.save_total_limit * (weights + optimizer) + adapter + 2 * shape.parameters


def tokens_read(report: Mapping[str, Any], steps: Steps) -> tuple[int, int]:
    """Tokens read and learned over the whole run, from the report of one pass."""
    passes = steps.total / max(1, steps.per_epoch)
    return round(report["tokens"] * passes), round(report["trained_tokens"] * passes)
