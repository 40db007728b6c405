"""All that can be said of a recipe before it is launched: what it takes, how long, and what a colleague would warn of. Pure.

`forecast`, `memory`, `pace` and `advice` reckon; here their answers come together. `web/foresight.py` gathers what they need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backend.core import advice, memory, pace, schedules
from backend.core.advice import Advice, Meaning, Situation
from backend.core.catalog import METHODS
from backend.core.errors import Problem
from backend.core.forecast import Accelerator, Need, Steps, disk_bytes, needs, steps_of, tokens_read, with_method
from backend.core.launch import Pinned
from backend.core.lengths import Lengths
from backend.core.models import Json
from backend.core.recipe import Recipe, resolve
from backend.core.rendering.refusals import TooLong


@dataclass(frozen=True)
class Queue:
    """What a run would find that is launched now."""

    waiting: int
    """Runs before it."""
    free: tuple[str, ...]
    """Workers with an accelerator that nobody holds."""
    workers: int


@dataclass(frozen=True)
class Counted:
    """Figures of one pass over the rows. `is_exact` once every row was read as the trainer reads it."""

    train_rows: int
    eval_rows: int
    examples: int
    max_length: int
    tokens: int | None = None
    trained_tokens: int | None = None
    longest: int | None = None
    cut: int = 0
    dropped: int = 0
    over: int = 0
    is_exact: bool = False


@dataclass(frozen=True)
class Prospect:
    """All that can be said of a recipe now."""

    recipe: Recipe
    counted: Counted
    steps: Steps
    needs: tuple[Need, ...]
    methods: Mapping[str, Need]
    """What each method would take on the largest accelerator, each at its own recommendations but the chosen one."""
    advice: Sequence[Advice]
    meanings: Mapping[str, Meaning]
    queue: Queue
    report: Json | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    tokens: tuple[int, int] | None = None
    """Read and learned over the whole run."""
    disk_needed: int | None = None
    disk_free: int | None = None
    names: tuple[str, ...] = ()
    """Of the model's linear layers."""
    is_over: bool = False
    """The rows were read, or cannot be."""
    progress: tuple[int, int] | None = None
    """Rows read, of all, while they are read."""

    @property
    def schedule(self) -> str:
        """The learning rate over the run, as the points of a line in a box of 112 × 28."""
        points = schedules.to_come(self.recipe.training, max(1, self.steps.total))
        top, last = self.recipe.training.learning_rate, max(1, points[-1][0])
        return " ".join(f"{112 * step / last:.1f},{27 - 25 * rate / top:.1f}" for step, rate in points)

    @property
    def seconds(self) -> float | None:
        """On the accelerator where it is soonest over."""
        known = [need.seconds for need in self.needs if need.seconds is not None and need.verdict != "too_big"]
        return min(known, default=None)


@dataclass(frozen=True)
class AtHand:
    """What the database and the disk know without reading rows."""

    pinned: Pinned
    measured: tuple[Lengths, ...]
    """Of each data set; empty where one was not measured."""
    kinds: tuple[Accelerator, ...]
    rates: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Tokens a second of earlier runs, by method and accelerator."""
    queue: Queue = Queue(0, (), 0)
    disk_free: int | None = None


def prospect(at_hand: AtHand, answer: Json | None = None, progress: tuple[int, int] | None = None) -> Prospect:
    """All figures together. `answer` is that of `launch.examine`, once every row was read; until then there may be progress."""
    pinned = at_hand.pinned
    facts = pinned.model.get("facts") or {}
    shape = memory.shape_of(facts)
    counted = _counted(pinned, answer, at_hand.measured, facts.get("context_length"))
    recipe = resolve(pinned.recipe, train_rows=counted.train_rows, context_length=facts.get("context_length"))
    steps = steps_of(recipe, train_rows=counted.train_rows, examples=counted.examples, max_length=counted.max_length)
    tokens = _tokens(counted, steps)
    taken = (
        _with_time(needs(recipe, shape, at_hand.kinds, longest=counted.longest), at_hand, recipe, shape, tokens)
        if shape
        else ()
    )
    disk = disk_bytes(recipe, shape) if shape else None
    situation = Situation(
        recipe=recipe,
        train_rows=counted.train_rows,
        eval_rows=counted.eval_rows,
        steps=steps,
        longest=counted.longest,
        shape=shape,
        needs=taken,
        disk_needed=disk,
        disk_free=at_hand.disk_free,
    )
    return Prospect(
        recipe=recipe,
        counted=counted,
        steps=steps,
        needs=taken,
        methods=_methods(at_hand, recipe, shape, counted, tokens) if shape else {},
        advice=advice.advise(situation),
        meanings=advice.meanings(situation),
        queue=at_hand.queue,
        report=answer and answer["report"],
        problems=tuple(Problem(**each) for each in answer["problems"]) if answer else _foreseen(at_hand, counted),
        notes=pinned.notes,
        tokens=tokens,
        disk_needed=disk,
        disk_free=at_hand.disk_free,
        names=tuple(each.name for each in shape.linears) if shape else (),
        is_over=answer is not None,
        progress=None if answer else progress,
    )


def _counted(pinned: Pinned, answer: Json | None, measured: Sequence[Lengths], context_length: int | None) -> Counted:
    """From the report where the rows were read, else from their lengths, else from their number."""
    recipe, report = pinned.recipe, answer and answer["report"]
    if report:
        plain = ("train_rows", "eval_rows", "examples", "max_length", "tokens", "trained_tokens", "longest")
        totals = {name: report[name]["total"] for name in ("cut", "dropped", "over")}
        return Counted(**{name: report[name] for name in plain}, **totals, is_exact=True)
    limit = int(resolve(recipe, train_rows=0, context_length=context_length).data.max_length)
    rows, share = sum(each["rows"] for each in pinned.data), recipe.evaluation.eval_share
    if not measured:
        held = round(rows * share)
        return Counted(rows - held, held, rows - held, limit)
    outcomes = [each.at(limit, recipe.data.truncation) for each in measured]
    usable = sum(each.rows for each in outcomes)
    held = round(usable * share)
    kept = (usable - held) / max(1, usable)
    tokens = round(kept * sum(each.tokens for each in outcomes))
    return Counted(
        train_rows=usable - held,
        eval_rows=held,
        examples=_packed(usable - held, tokens, limit) if recipe.data.packing else usable - held,
        max_length=limit,
        tokens=tokens,
        trained_tokens=round(kept * sum(each.trained_tokens for each in outcomes)),
        longest=max(each.longest for each in measured),
        cut=sum(each.cut for each in outcomes),
        dropped=sum(each.dropped for each in outcomes),
        over=sum(each.over for each in outcomes),
    )


def _foreseen(at_hand: AtHand, counted: Counted) -> tuple[Problem, ...]:
    """What reading the rows will stop at, where their lengths tell it already."""
    if not counted.over or at_hand.pinned.recipe.data.truncation != "refuse":
        return ()
    kept, dropped, behind, before = (
        [each.at(counted.max_length, way) for each in at_hand.measured]
        for way in ("refuse", "drop", "cut_end", "cut_start")
    )
    learned = sum(each.trained_tokens for each in kept) or 1
    found = TooLong(
        rows=counted.over,
        of=sum(each.rows for each in at_hand.measured),
        limit=counted.max_length,
        longest=max(each.longest for each in at_hand.measured),
        context_length=at_hand.measured[0].context_length,
        dropped=sum(each.lost_tokens for each in dropped) / learned,
        behind=sum(each.lost_tokens for each in behind) / learned,
        before=sum(each.lost_tokens for each in before) / learned,
    )
    return (found.problem(),)


def _packed(rows: int, tokens: int, limit: int) -> int:
    """Rows are packed nearly full; how full shows when they are read."""
    return min(rows, -(-tokens // limit))


def _tokens(counted: Counted, steps: Steps) -> tuple[int, int] | None:
    if counted.tokens is None or counted.trained_tokens is None:
        return None
    return tokens_read({"tokens": counted.tokens, "trained_tokens": counted.trained_tokens}, steps)


def _with_time(
    taken: Sequence[Need], at_hand: AtHand, recipe: Recipe, shape: memory.Shape, tokens: tuple[int, int] | None
) -> tuple[Need, ...]:
    if tokens is None:
        return tuple(taken)
    return tuple(replace(need, seconds=_seconds(need, at_hand, recipe, shape, tokens[0])) for need in taken)


def _seconds(need: Need, at_hand: AtHand, recipe: Recipe, shape: memory.Shape, tokens: int) -> float | None:
    title = need.accelerator.title
    measured = at_hand.rates.get((recipe.method.kind, title))
    return pace.seconds(shape, recipe, tokens=tokens, device_title=title, measured=measured)


def _methods(
    at_hand: AtHand, recipe: Recipe, shape: memory.Shape, counted: Counted, tokens: tuple[int, int] | None
) -> dict[str, Need]:
    """Each method on the accelerator with the most memory; what has required settings of its own is left out."""
    found: dict[str, Need] = {}
    for method in METHODS:
        kind: str = method.model_fields["kind"].default
        chosen = recipe.method.kind == kind
        other = recipe if chosen else with_method(recipe, _like(recipe.method, method))
        for need in needs(other, shape, at_hand.kinds[:1], longest=counted.longest):
            found[kind] = _with_time([need], at_hand, other, shape, tokens)[0]
    return found


def _like(method: Any, other: type[Any]) -> Any:
    """The other method with the settings that both have."""
    shared = {
        name: value for name, value in method.model_dump().items() if name in other.model_fields and name != "kind"
    }
    return other.model_validate(shared)
