"""What an experienced colleague would say of a run before it starts. Rules are pure: figures in, findings out.

A finding warns; it never stops a run. What stops one is refused by `recipe`, `launch` and `rendering.prepare`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from backend.core.catalog import METHODS
from backend.core.errors import Problem
from backend.core.forecast import Accelerator, Need, Steps, needs, with_method
from backend.core.memory import Shape, most_rows, recomputes
from backend.core.recipe import Recipe, every, figure

GIB = 1 << 30
ROWS_A_RANK = 300
"""Rows for each rank beyond the recommended one: fewer cannot fill the matrices."""
MANY_PASSES, FEW_STEPS, FEW_HELD_BACK, PACKED_STEPS = 3, 60, 20, 100
RATE_TOO_HIGH, RATE_TOO_LOW = 5.0, 0.1
SCALES_TOO_FAR = 8
WAYS = 3
BATCH, BATCHES = "per_device_train_batch_size", "gradient_accumulation_steps"


@dataclass(frozen=True)
class Remedy:
    """A way out as a button: what it says, and the settings that it sets, as text."""

    words: str
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Advice:
    """One finding. Serious ones will most likely end the run; the others cost time or quality."""

    problem: Problem
    is_serious: bool = False
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True)
class Situation:
    """What is known of a run. Figures of the rows are None until they were read, counts may be estimates until then."""

    recipe: Recipe
    train_rows: int
    eval_rows: int
    steps: Steps
    longest: int | None = None
    shape: Shape | None = None
    needs: Sequence[Need] = ()
    disk_needed: int | None = None
    disk_free: int | None = None


def advise(at: Situation) -> list[Advice]:
    """Everything worth saying, the serious first."""
    rules = (memory, disk, rate, rank, scale, passes, few_steps, warm_up, packing, held_back, attention, precision)
    found = [advice for rule in rules for advice in rule(at)]
    return sorted(found, key=lambda each: not each.is_serious)


# ---- memory and disk ------------------------------------------------------------------------------------------------


def memory(at: Situation) -> Iterator[Advice]:
    """Too big for every accelerator that is here, or tight on the best of them. CPUs count where there is nothing else."""
    if not at.needs or at.shape is None:
        return
    cards = [need for need in at.needs if not need.accelerator.on_cpu]
    best = min(cards or at.needs, key=lambda need: need.footprint.total / need.accelerator.memory_bytes)
    title = best.accelerator.title
    if best.verdict == "too_big":
        over = f"{best.over_bytes / GIB:.1f} GiB"
        words = f"About {over} too much for {title}: it would most likely run out of memory (OOM) at the first step."
        hint = "The figure comes from a formula and may be off by a tenth."
        problem = Problem("advice.memory", words, "training.per_device_train_batch_size", hint)
        yield Advice(problem, True, tuple(ways_to_fit(at, best.accelerator)))
    elif best.verdict == "tight":
        words = f"Less than a tenth of {title} would be left: one long row more may be too much."
        problem = Problem("advice.memory_tight", words, "training.per_device_train_batch_size")
        yield Advice(problem, False, tuple(ways_to_fit(at, best.accelerator)))


def ways_to_fit(at: Situation, kind: Accelerator) -> Iterator[Remedy]:
    """Fewer rows at once, then recomputing, then another method: each with as many rows as fit then, and what it takes."""
    offers = ((False, False), (False, True), (True, False), (True, True))
    found = (_way(at, kind, quantised=quantised, recomputed=recomputed) for quantised, recomputed in offers)
    yield from islice(filter(None, found), WAYS)


def _way(at: Situation, kind: Accelerator, *, quantised: bool, recomputed: bool) -> Remedy | None:
    """The remedy of these changes, where they are changes and make it fit."""
    assert at.shape is not None
    is_quantised, is_recomputed = at.recipe.method.kind == "qlora", recomputes(at.recipe.training, on_cpu=kind.on_cpu)
    if (quantised and is_quantised) or (recomputed and is_recomputed):
        return None
    changed = with_method(at.recipe, METHODS[0]()) if quantised else at.recipe
    settings, said = ({"method.kind": "qlora"}, [METHODS[0].title]) if quantised else ({}, [])
    if recomputed:
        changed = with_training(changed, gradient_checkpointing=True)
        settings, said = settings | {"training.gradient_checkpointing": "true"}, [*said, "gradient_checkpointing"]
    rows = most_rows(at.shape, changed, kind.memory_bytes, longest=at.longest, on_cpu=kind.on_cpu)
    if rows == 0:
        return None
    if rows < at.recipe.training.per_device_train_batch_size:
        batches = max(1, math.ceil(at.steps.rows / rows))
        changed = with_training(changed, per_device_train_batch_size=rows)
        settings = settings | {f"training.{BATCH}": str(rows), f"training.{BATCHES}": str(batches)}
        said = [*said, f"{rows} × {batches}"]
    if not settings:
        return None
    size = f"{needs(changed, at.shape, [kind], longest=at.longest)[0].footprint.total / GIB:.1f} GiB"
    words = f"Use {', '.join(said)}: {size}"
    return Remedy(words, settings)


def with_training(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})


def disk(at: Situation) -> Iterator[Advice]:
    if at.disk_needed is None or at.disk_free is None or at.disk_needed < at.disk_free:
        return
    words = f"It needs about {at.disk_needed / GIB:.1f} GiB of disk, and {at.disk_free / GIB:.1f} GiB are free."
    hint = "Keep fewer checkpoints, or delete what is no longer needed."
    yield Advice(Problem("advice.disk", words, "saving.save_total_limit", hint), True)


# ---- learning -------------------------------------------------------------------------------------------------------


def rate(at: Situation) -> Iterator[Advice]:
    """A learning rate far from what the method learns well with."""
    usual, given = at.recipe.method.learning_rate, at.recipe.training.learning_rate
    remedy = Remedy(f"Use {figure(usual)}", {"training.learning_rate": f"{figure(usual)}"})
    title = at.recipe.method.title
    if given > usual * RATE_TOO_HIGH:
        times = f"{given / usual:.0f}"
        words = f"A learning rate of {figure(given)} is {times} times what {title} learns well with: the loss may leap."
        yield Advice(Problem("advice.rate_high", words, "training.learning_rate"), False, (remedy,))
    elif given < usual * RATE_TOO_LOW:
        words = (
            f"A learning rate of {figure(given)} is under a tenth of what {title} learns well with: little may change."
        )
        yield Advice(Problem("advice.rate_low", words, "training.learning_rate"), False, (remedy,))


def rank(at: Situation) -> Iterator[Advice]:
    """More rank than the rows can fill."""
    given = getattr(at.recipe.method, "r", None)
    if given is None:
        return
    usual: int = type(at.recipe.method).model_fields["r"].default
    if given <= usual or at.train_rows >= given * ROWS_A_RANK:
        return
    times = f"{given / usual:.2g}"
    words = (
        f"Rank {given} learns little more from {at.train_rows:,} rows than {usual} and takes {times} times the room."
    )
    remedy = Remedy(f"Use {usual}", {"method.r": str(usual), "method.lora_alpha": str(2 * usual)})
    yield Advice(Problem("advice.rank", words, "method.r"), False, (remedy,))


def scale(at: Situation) -> Iterator[Advice]:
    """An update that is scaled out of all proportion to its rank."""
    given, ranks = getattr(at.recipe.method, "lora_alpha", None), getattr(at.recipe.method, "r", None)
    if given is None or ranks is None or 1 / SCALES_TOO_FAR <= given / ranks <= SCALES_TOO_FAR:
        return
    words = f"A scale of {given} at rank {ranks} is far from twice the rank: it acts like another learning rate."
    remedy = Remedy(f"Use {2 * ranks}", {"method.lora_alpha": str(2 * ranks)})
    yield Advice(Problem("advice.scale", words, "method.lora_alpha"), False, (remedy,))


def passes(at: Situation) -> Iterator[Advice]:
    """Rows seen so often that they are learned by heart."""
    training = at.recipe.training
    seen = at.steps.total / max(1, at.steps.per_epoch)
    if seen <= MANY_PASSES or at.recipe.evaluation.early_stopping_patience:
        return
    usual = "2" if training.max_steps < 0 else None
    words = f"Each row is seen {seen:.0f} times: it is likely to be learned by heart."
    hint = "The evaluation loss shows when that begins."
    stop = Remedy("Stop when it gets worse", {"evaluation.early_stopping_patience": "3"})
    fewer = (Remedy(f"Use {usual}", {"training.num_train_epochs": usual}),) if usual else ()
    yield Advice(Problem("advice.passes", words, "training.num_train_epochs", hint), False, (*fewer, stop))


def few_steps(at: Situation) -> Iterator[Advice]:
    """Fewer steps than it takes to learn much, at the rates that are recommended."""
    if at.steps.total >= FEW_STEPS or at.train_rows == 0:
        return
    words = f"It would make {at.steps.total:,} steps: too few to learn much in."
    batch = at.recipe.training.per_device_train_batch_size
    full_steps = at.steps.total - at.steps.total // max(1, at.steps.per_epoch)  # the last of each pass may be short
    smaller = max(1, min(batch, at.steps.rows * full_steps // FEW_STEPS))
    settings = {"training.per_device_train_batch_size": str(smaller), "training.gradient_accumulation_steps": "1"}
    one_size = Remedy(f"{smaller} rows a step" if smaller > 1 else "1 row a step", settings)
    remedies = (one_size,) if at.recipe.training.max_steps < 0 and smaller < at.steps.rows else ()
    yield Advice(Problem("advice.few_steps", words, "training.num_train_epochs"), False, remedies)


def warm_up(at: Situation) -> Iterator[Advice]:
    """A warm-up that takes most of the run."""
    given, total = at.recipe.training.warmup_steps, at.steps.total
    rising = given * total if given < 1 else given
    if rising * 2 <= total or at.recipe.training.lr_scheduler_type == "constant":
        return
    words = f"The learning rate would still rise at step {math.ceil(rising):,} of {total:,}."
    remedy = Remedy("Use 0.03", {"training.warmup_steps": "0.03"})
    yield Advice(Problem("advice.warm_up", words, "training.warmup_steps"), False, (remedy,))


def packing(at: Situation) -> Iterator[Advice]:
    """Packed rows that leave hardly a step."""
    if not at.recipe.data.packing or at.steps.per_epoch >= PACKED_STEPS:
        return
    words = f"Packing leaves {at.steps.per_epoch:,} steps a pass: few for what there is to learn."
    remedy = Remedy("Do not pack", {"data.packing": "false"})
    yield Advice(Problem("advice.packing", words, "data.packing"), False, (remedy,))


def held_back(at: Situation) -> Iterator[Advice]:
    """Too few rows to measure on, or none."""
    share, whole = at.recipe.evaluation.eval_share, at.train_rows + at.eval_rows
    if not share:
        words = "No rows are held back: nothing will show when it begins to memorise."
        remedy = Remedy("Hold back 5 %", {"evaluation.eval_share": "0.05"})
        yield Advice(Problem("advice.no_evaluation", words, "evaluation.eval_share"), False, (remedy,))
    elif at.eval_rows < FEW_HELD_BACK and whole > FEW_HELD_BACK:
        wanted = min(0.5, math.ceil(100 * FEW_HELD_BACK / whole) / 100)
        words = f"Only {at.eval_rows:,} rows are held back: the evaluation loss will jump about."
        remedies = (Remedy(f"Hold back {100 * wanted:.0f} %", {"evaluation.eval_share": f"{wanted:g}"}),)
        problem = Problem("advice.few_held_back", words, "evaluation.eval_share")
        yield Advice(problem, False, remedies if wanted > share else ())


# ---- the machine ----------------------------------------------------------------------------------------------------


def attention(at: Situation) -> Iterator[Advice]:
    if at.recipe.model.attn_implementation != "flash_attention_2":
        return
    words = "flash_attention_2 needs a package of its own on the worker; whether it is there shows when the model is loaded."
    remedy = Remedy("Use sdpa", {"model.attn_implementation": "sdpa"})
    yield Advice(Problem("advice.attention", words, "model.attn_implementation"), False, (remedy,))


def precision(at: Situation) -> Iterator[Advice]:
    """Half precision where it brings nothing, or overflows."""
    given = at.recipe.training.precision
    remedy = (Remedy("Use auto", {"training.precision": "auto"}),)
    if given in ("bf16", "fp16") and at.needs and all(need.accelerator.on_cpu for need in at.needs):
        words = f"{given} is slower than fp32 on a CPU, and the only accelerators here are CPUs."
        yield Advice(Problem("advice.precision", words, "training.precision"), False, remedy)
    elif given == "fp32" and any(not need.accelerator.on_cpu for need in at.needs):
        words = "fp32 takes twice the memory of bf16 and several times the time, for nothing that can be measured."
        yield Advice(Problem("advice.precision", words, "training.precision"), False, remedy)


# ---- what the recommendations come to here --------------------------------------------------------------------------


@dataclass(frozen=True)
class Meaning:
    """What a setting comes to in this run, and why that is recommended here."""

    value: str = ""
    why: str = ""


def meanings(at: Situation) -> dict[str, Meaning]:
    """What `auto` and shares come to for this model and data, and reasons that know the data."""
    recipe, total = at.recipe, at.steps.total
    training, evaluation, saving = recipe.training, recipe.evaluation, recipe.saving
    rising = training.warmup_steps * total if training.warmup_steps < 1 else training.warmup_steps
    found = {
        "data.max_length": str(recipe.data.max_length),
        "training.gradient_accumulation_steps": str(training.gradient_accumulation_steps),
        "training.warmup_steps": str(math.ceil(rising)),
        "evaluation.eval_steps": str(every(evaluation.eval_steps, total, 20)),
        "evaluation.sample_steps": str(every(evaluation.sample_steps, total, 10)),
        "saving.save_steps": str(every(saving.save_steps, total, 10)),
        "evaluation.eval_share": str(at.eval_rows),
    }
    whys = dict(_reasons(at))
    return {name: Meaning(found.get(name, ""), whys.get(name, "")) for name in found | whys}


def _reasons(at: Situation) -> Iterator[tuple[str, str]]:
    """Each recommendation's reason where the data has something to say of it."""
    if at.longest is not None and at.longest <= int(at.recipe.data.max_length):
        words = f"the longest row has {at.longest:,}, so nothing is cut."
        yield "data.max_length", words
    usual = type(at.recipe.method).model_fields.get("r")
    if usual is not None and at.train_rows:
        words = f"enough for {at.train_rows:,} rows."
        yield "method.r", words
    if at.train_rows and not at.recipe.data.packing and at.train_rows < 10_000:
        words = f"with {at.train_rows:,} rows it would leave too few steps."
        yield "data.packing", words
    if at.steps.rows:
        words = f"makes {at.steps.rows:,} rows a step and {at.steps.per_epoch:,} steps a pass."
        yield "training.gradient_accumulation_steps", words
