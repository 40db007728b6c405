"""When things happen in a run, and what amendments have made of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from backend.core.assignment import Amendment
from backend.core.errors import Invalid
from backend.core.recipe import Recipe, every


@dataclass(frozen=True)
class Plan:
    """Steps of a run: how many, and after which it is measured, asked and saved. The last step gets all three."""

    total_steps: int
    eval_steps: int
    sample_steps: int
    save_steps: int
    learning_rate: float
    prompts: tuple[str, ...]

    def is_due(self, step: int, interval: int) -> bool:
        return step % interval == 0 or step >= self.total_steps


def steps_in(recipe: Recipe, examples: int) -> int:
    """Optimizer steps of the whole run. `examples` counts the rows of an epoch after packing."""
    training = recipe.training
    if training.max_steps > 0:
        return training.max_steps
    batches = math.ceil(examples / training.per_device_train_batch_size)
    assert isinstance(training.gradient_accumulation_steps, int), "the recipe is resolved by now"
    return math.ceil(training.num_train_epochs * math.ceil(batches / training.gradient_accumulation_steps))


def make_plan(recipe: Recipe, examples: int) -> Plan:
    total = steps_in(recipe, examples)
    evaluation = recipe.evaluation
    return Plan(
        total_steps=total,
        eval_steps=every(evaluation.eval_steps, total, 20),
        sample_steps=every(evaluation.sample_steps, total, 10),
        save_steps=every(recipe.saving.save_steps, total, 10),
        learning_rate=recipe.training.learning_rate,
        prompts=evaluation.prompts,
    )


def amend(plan: Plan, amendment: Amendment) -> Plan:
    """The plan with one change. Raises `Invalid` for a value that the field cannot hold."""
    value = amendment.value
    match amendment.field:
        case "training.learning_rate" if isinstance(value, int | float) and 0 < value <= 1:
            return replace(plan, learning_rate=float(value))
        case "training.max_steps" if isinstance(value, int) and value > 0:
            return replace(plan, total_steps=value)
        case "evaluation.sample_steps" if isinstance(value, int) and value > 0:
            return replace(plan, sample_steps=value)
        case "evaluation.prompts" if isinstance(value, list):
            return replace(plan, prompts=tuple(map(str, value)))
    raise Invalid(f"{value!r} cannot be the new value.", where=amendment.field)


class Amendments:
    """Changes in order of their sequence, each taken once, at the step that it holds from.

    A person's later word on a field stands: after the run went back, an older change may find a newer one applied already.
    """

    def __init__(self, known: Iterable[Amendment]) -> None:
        self._waiting = sorted(known, key=lambda each: each.sequence)
        self._seen = {each.sequence for each in self._waiting}
        self._applied: dict[str, int] = {}

    def add(self, changes: Iterable[Amendment]) -> None:
        """Later news; what the assignment already told is not heard twice."""
        self._waiting += [each for each in changes if each.sequence not in self._seen]
        self._seen |= {each.sequence for each in self._waiting}

    def take_past(self, step: int) -> list[Amendment]:
        """Those that held at `step` already, when the checkpoint of that step was made."""
        return self._take([each for each in self._waiting if each.step is not None and each.step <= step])

    def take(self, step: int) -> list[Amendment]:
        """Those that hold from `step` on, which is about to begin; new ones hold as soon as they can."""
        return self._take([each for each in self._waiting if each.step is None or each.step <= step])

    def _take(self, due: list[Amendment]) -> list[Amendment]:
        self._waiting = [each for each in self._waiting if each not in due]
        standing = [each for each in due if each.sequence > self._applied.get(each.field, 0)]
        self._applied |= {each.field: each.sequence for each in standing}
        return standing
