"""How two recipes differ, setting by setting: a clone from its parent, or two runs beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from pydantic import JsonValue


class SettingDifference(TypedDict):
    """A setting under its path (`method.r`). None stands where a recipe does not have it."""

    name: str
    before: JsonValue
    after: JsonValue


def setting_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[SettingDifference]:
    """The settings in which `b` is otherwise than `a`, in the order of `b`, then those that only `a` has.

    The name of a run is no setting. A list is one setting: its order and its length mean something together.
    """
    before, after = dict(settings_of(a)), dict(settings_of(b))
    names = [*after, *(name for name in before if name not in after)]
    return [
        SettingDifference(name=name, before=before.get(name), after=after.get(name))
        for name in names
        if not _is_same(before.get(name), after.get(name))
    ]


def settings_of(recipe: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, JsonValue]]:
    """Every setting of a recipe under its path, without the run's name."""
    for key, value in recipe.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping):
            yield from settings_of(value, f"{name}.")
        elif name != "name":
            yield name, value


def _is_same(before: JsonValue, after: JsonValue) -> bool:
    """Python holds True and 1 equal; for a setting they are not."""
    return before == after and isinstance(before, bool) == isinstance(after, bool)
