"""What can be said of several runs beside each other: whether their losses can be compared, which is best, how they differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue

from backend.core.difference import setting_differences, settings_of

LEAST, MOST = 2, 6
"""How many runs are compared: as many as there are colours for lines."""

Obstacle = Literal["model", "data", "held_back", "learned", "length"]
"""Why two evaluation losses do not measure the same: another base model, other data, other rows held back, other words
counted, other rows cut or dropped."""

MEASURED_BY: dict[Obstacle, tuple[str, ...]] = {
    "model": ("model.path", "model.revision", "model.chat_template"),
    "held_back": ("evaluation.eval_share", "training.seed"),
    "learned": ("data.assistant_only_loss", "stage.kind"),
    "length": ("data.max_length", "data.truncation"),
}


@dataclass(frozen=True)
class Subject:
    """A run as it is compared."""

    name: str
    recipe: Mapping[str, Any]
    data: Sequence[tuple[str, int]]
    """Names and versions of its data sets."""
    eval_loss: float | None
    """The lowest."""


@dataclass(frozen=True)
class Verdict:
    """`best` is the name of the run with the lowest evaluation loss, and `lead` how far it is below the next one."""

    best: str | None
    lead: float | None
    obstacles: tuple[Obstacle, ...]
    measured: int
    """How many of them have an evaluation loss at all."""


def verdict(subjects: Sequence[Subject]) -> Verdict:
    """Which is best so far, or why that cannot be said. Runs that were not measured yet do not stand in its way."""
    measured = sorted((each for each in subjects if each.eval_loss is not None), key=lambda each: each.eval_loss or 0.0)
    found = obstacles(subjects)
    if found or len(measured) < LEAST:
        return Verdict(None, None, found, len(measured))
    first, second = measured[:2]
    assert first.eval_loss is not None
    assert second.eval_loss is not None
    lead = second.eval_loss - first.eval_loss
    return Verdict(first.name if lead else None, lead, found, len(measured))


def obstacles(subjects: Sequence[Subject]) -> tuple[Obstacle, ...]:
    """Why these losses cannot be compared; nothing where they can."""
    settings = [dict(settings_of(each.recipe)) for each in subjects]

    def differs(names: Sequence[str]) -> bool:
        return any(each.get(name) != settings[0].get(name) for each in settings for name in names)

    found: list[Obstacle] = [obstacle for obstacle, names in MEASURED_BY.items() if differs(names)]
    if len({tuple(sorted(each.data)) for each in subjects}) > 1:
        found.insert(0, "data")
    return tuple(found)


@dataclass(frozen=True)
class Row:
    """A setting in every run; None where a run does not have it."""

    name: str
    values: tuple[JsonValue, ...]
    differs: tuple[bool, ...]
    """Whether each run has it otherwise than the first."""


def setting_rows(recipes: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Every setting of any of the recipes, in their order."""
    settings = [dict(settings_of(recipe)) for recipe in recipes]
    names = list(dict.fromkeys(name for each in settings for name in each))
    other = [{each["name"] for each in setting_differences(recipes[0], recipe)} for recipe in recipes]
    return [
        Row(name, tuple(each.get(name) for each in settings), tuple(name in changed for changed in other))
        for name in names
    ]


def short_names(names: Sequence[str]) -> list[str]:
    """The names without the words that all begin with: `support-r8`, `support-r16` → `r8`, `r16`."""
    words = [re.split(r"(?<=[-_ .])", name) for name in names]
    most = min(len(each) for each in words) - 1
    same = next((at for at in range(most) if len({each[at] for each in words}) > 1), most)
    return ["".join(each[same:]) for each in words]
