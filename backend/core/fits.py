"""What fits where: models by methods by accelerators, before anything is downloaded or launched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from backend.core.catalog import METHODS
from backend.core.forecast import Accelerator
from backend.core.memory import Footprint, Shape, Verdict, footprint, most_rows, shape_of, verdict
from backend.core.recipe import Recipe, read_recipe

GIB = 1 << 30
USUAL_GIB = (8, 12, 16, 24, 48, 80)
"""Accelerators that people have or rent: what if it were one of these?"""
ROWS, LENGTHS = (1, 2, 4, 8), (512, 1024, 2048, 4096, 8192)

Kind = Literal["base", "instruct"]
NAMED_BASE = re.compile(r"(^|[-_/.])(base|pt|pretrain(ed)?)([-_.]|$)", re.IGNORECASE)
NAMED_INSTRUCT = re.compile(r"(^|[-_/.])(instruct|chat|it|sft|dpo|rlhf|assistant|thinking)([-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """How much is trained on at once: rows, and tokens in the longest."""

    rows: int = 1
    length: int = 2048


@dataclass(frozen=True)
class Fit:
    """Whether a method's run fits on an accelerator, what it needs there, and the most rows that fit at once."""

    accelerator: str
    method: str
    verdict: Verdict
    needed: Footprint
    memory_bytes: int
    most_rows: int

    @property
    def bytes(self) -> int:
        return self.needed.total

    @property
    def parts(self) -> dict[str, int]:
        return self.needed.parts


def what_ifs() -> list[Accelerator]:
    return [Accelerator(f"{size} GiB", size * GIB, ()) for size in USUAL_GIB]


def key_of(accelerator: Accelerator) -> str:
    """Its name in addresses: `rtx-4090-24-gib`, or `24-gib` for a what-if."""
    size = f"{round(accelerator.memory_bytes / GIB)} GiB"
    words = size if accelerator.title == size else f"{short_title(accelerator.title)} {size}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def short_title(title: str) -> str:
    """`NVIDIA GeForce RTX 4090` → `RTX 4090`; `CPU, 16 cores (x86_64)` → `CPU, 16 cores`."""
    return re.sub(r"^(NVIDIA|AMD|Tesla)\s+|GeForce\s+|\s*\([^)]*\)$", "", title).strip()


def fits(facts: Mapping[str, Any], accelerator: Accelerator, load: Load) -> list[Fit]:
    """One entry a method, in the order in which they are offered; empty where the model's shape is not known."""
    shape = shape_of(facts)
    if shape is None:
        return []
    return [_fit(shape, each.model_fields["kind"].default, accelerator, load) for each in METHODS]


@lru_cache(maxsize=4096)  # a page of models asks for hundreds, and for the same ones each time
def _fit(shape: Shape, method: str, accelerator: Accelerator, load: Load) -> Fit:
    recipe, size, on_cpu = recipe_for(method, load), accelerator.memory_bytes, accelerator.on_cpu
    needed = footprint(shape, recipe, on_cpu=on_cpu)
    rows = most_rows(shape, recipe, size, on_cpu=on_cpu)
    return Fit(key_of(accelerator), method, verdict(needed, size), needed, size, rows)


@lru_cache(maxsize=128)
def recipe_for(method: str, load: Load) -> Recipe:
    """The recommended settings of a method under such a load. It has no data, so it only serves to be reckoned with."""
    data = {"sets": ["any"], "max_length": load.length}
    training = {"per_device_train_batch_size": load.rows}
    return read_recipe({"model": "any", "data": data, "method": method, "training": training}).recipe


def kind_of(name: str, *, chat_template: bool) -> Kind:
    """Whether a model was taught to answer: as its name says, else by whether it comes with a chat template."""
    if NAMED_BASE.search(name):
        return "base"
    return "instruct" if NAMED_INSTRUCT.search(name) or chat_template else "base"
