"""A recipe as a form: drawn from the pydantic model, unions told apart by `kind` included, and read back."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from backend.core.catalog import METHODS
from backend.core.errors import Problem
from backend.core.methods.base import Method
from backend.core.recipe import Recipe
from backend.core.strict import models_in

Kind = Literal["group", "number", "text", "lines", "sets", "check", "choice"]
Pairs = Iterable[tuple[str, str]]

OPEN_LISTS: dict[str, Kind] = {"evaluation.prompts": "lines", "data.sets": "sets"}
"""Lists have an editor of their own: a text area with one item a line, or rows of data set, version and weight."""


TEXTS = ("name", "path", "revision", "prompts")
"""Settings that stay text even where they look like numbers."""
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Control:
    """One control of the form, or a group of them. Its label and help are English; the template translates them."""

    name: str
    """`method.r`: the path of the setting, and the name of the field that is sent."""
    label: str
    help: str = ""
    kind: Kind = "text"
    value: Any = None
    """As text for an input; a bool for a check; a list of {name, version, weight} for sets."""
    recommended: str = ""
    """The default as text: a setting that differs from it was changed by hand."""
    error: str = ""
    required: bool = False
    options: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    inside: tuple[Control, ...] = field(default=())

    @property
    def id(self) -> str:
        return "f-" + self.name.replace(".", "-")

    @property
    def is_changed(self) -> bool:
        return self.kind != "group" and text_of(self.value) != self.recommended


def recipe_controls(data: object, problems: Sequence[Problem] = ()) -> list[Control]:
    """The controls of the whole recipe, filled with `data`, each problem at its field."""
    errors: dict[str, str] = {}
    for problem in problems:
        errors.setdefault(problem.where, f"{problem.message} {problem.hint}".strip())
    return [_with_rate(control, data) for control in _controls(Recipe, data, errors, "")]


def _with_rate(control: Control, data: object) -> Control:
    """The recommended learning rate is the method's, so it stands in no default of the recipe's own."""
    if control.name == "training.learning_rate":
        return replace(control, recommended=text_of(chosen_method(data).learning_rate), required=False)
    return replace(control, inside=tuple(_with_rate(inner, data) for inner in control.inside))


def chosen_method(data: object) -> type[Method]:
    method = data.get("method") if isinstance(data, Mapping) else None
    kind = method.get("kind") if isinstance(method, Mapping) else method
    return next((known for known in METHODS if known.model_fields["kind"].default == kind), METHODS[0])


def _controls(model: type[BaseModel], data: object, errors: Mapping[str, str], prefix: str) -> tuple[Control, ...]:
    given = data if isinstance(data, Mapping) else {}
    return tuple(_control(prefix + name, info, given.get(name), errors) for name, info in model.model_fields.items())


def _control(name: str, info: FieldInfo, value: Any, errors: Mapping[str, str]) -> Control:
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    value = _plain(default if value is None else value)
    control = Control(
        name,
        info.title or name.rsplit(".")[-1],
        info.description or "",
        recommended=text_of(_plain(default)),
        error=_error_at(name, errors),
        required=info.is_required(),
    )
    if name in OPEN_LISTS:
        return replace(control, kind=OPEN_LISTS[name], value=_list_value(OPEN_LISTS[name], value))
    if members := models_in(info.annotation):
        return _group(control, members, value, errors)
    return _leaf(control, info, value)


def _group(control: Control, members: list[type[BaseModel]], value: Any, errors: Mapping[str, str]) -> Control:
    """A nested model; where there are several, the field `kind` chooses which one is drawn."""
    value = value if isinstance(value, Mapping) else {}
    by_kind = {m.model_fields["kind"].default: m for m in members if "kind" in m.model_fields}
    if not by_kind:
        return replace(control, kind="group", inside=_controls(members[0], value, errors, control.name + "."))
    chosen = value.get("kind") if value.get("kind") in by_kind else next(iter(by_kind))
    inside = [c for c in _controls(by_kind[chosen], value, errors, control.name + ".") if c.label != "kind"]
    choice = Control(
        f"{control.name}.kind", control.label, kind="choice", value=chosen, recommended=chosen, options=tuple(by_kind)
    )
    return replace(control, kind="group", inside=(choice, *inside))


def _leaf(control: Control, info: FieldInfo, value: Any) -> Control:
    kinds = _members(info.annotation)
    words = tuple(str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind))
    low, high = _bounds(info)
    if bool in kinds and not words:
        return replace(control, kind="check", value=str(value).lower() in ("true", "on", "yes", "1"))
    if bool in kinds:
        return replace(control, kind="choice", value=text_of(value), options=(*words, "true", "false"))
    if words and not {int, float, str} & set(kinds):
        return replace(control, kind="choice", value=text_of(value), options=words)
    number: Kind = "number" if {int, float} & set(kinds) and not words else "text"
    return replace(control, kind=number, value=text_of(value), options=words, minimum=low, maximum=high)


def _members(annotation: Any) -> list[Any]:
    """The members of a union, `Annotated` and null left out."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for inner in get_args(annotation) if inner is not NoneType for member in _members(inner)]
    return [annotation]


def _bounds(info: FieldInfo) -> tuple[float | None, float | None]:
    low = next((getattr(m, a) for m in info.metadata for a in ("ge", "gt") if hasattr(m, a)), None)
    high = next((getattr(m, a) for m in info.metadata for a in ("le", "lt") if hasattr(m, a)), None)
    return low, high


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _list_value(kind: Kind, value: Any) -> Any:
    items = value if isinstance(value, list | tuple) else []
    if kind == "lines":
        return "\n".join(str(item).replace("\n", "\\n") for item in items)
    return [item if isinstance(item, Mapping) else {"name": str(item)} for item in items]


def text_of(value: Any) -> str:
    """A setting as it stands in an input: `0.0002`, `true`, `q_proj, v_proj`; blank for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return ", ".join(map(text_of, value)) if isinstance(value, list | tuple) else str(value)


def _error_at(name: str, errors: Mapping[str, str]) -> str:
    """Problems inside a list (`data.sets.0.name`) belong to the list's one control."""
    inner = f"{name}." if name in OPEN_LISTS else None
    return next((text for where, text in errors.items() if where == name or (inner and where.startswith(inner))), "")


def recipe_from_form(pairs: Pairs) -> dict[str, Any]:
    """The recipe that a form says: `method.r=16` → `{"method": {"r": "16"}}`.

    Of a repeated name the last wins, so a hidden `false` may stand before a checkbox; blank means unset. Names without a
    dot (`csrf_token`, `view`) are the form's own, but for `name`. Data sets come as `data.sets.0.name`, `….weight`.
    """
    data: dict[str, Any] = {}
    for name, value in pairs:
        if "." in name or name == "name":
            _put(data, name.split("."), value.strip())
    if isinstance(chosen := data.get("data", {}).get("sets"), dict):
        data["data"]["sets"] = [each for _, each in sorted(chosen.items(), key=_by_number) if each.get("name")]
    if isinstance(prompts := data.get("evaluation", {}).get("prompts"), str):
        data["evaluation"]["prompts"] = [p.strip().replace("\\n", "\n") for p in prompts.splitlines() if p.strip()]
    if isinstance(modules := data.get("method", {}).get("target_modules"), str) and "," in modules:
        data["method"]["target_modules"] = [part.strip() for part in modules.split(",") if part.strip()]
    if isinstance(method := data.get("method"), dict):
        known = chosen_method(data).model_fields
        data["method"] = {name: value for name, value in method.items() if name in known}  # those of the method before
    return data


def _by_number(item: tuple[str, Any]) -> int:
    return int(item[0]) if item[0].isdecimal() else 0


def _put(data: dict[str, Any], path: list[str], value: str) -> None:
    *parents, last = path
    at = data
    for parent in parents:
        inner = at.get(parent)
        at[parent] = at = inner if isinstance(inner, dict) else {}
    at.pop(last, None)
    if value:
        at[last] = value if last in TEXTS else _typed(value)


def _typed(text: str) -> str | int | float | bool:
    """Forms send text only; a recipe has numbers and booleans, in its YAML view too."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            if NUMBER.fullmatch(text):
                return kind(text)
    return text
