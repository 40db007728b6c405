"""A recipe as a form: drawn from the pydantic model, unions told apart by `kind` included, and read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isinf
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from backend.core.catalog import METHODS
from backend.core.errors import Problem
from backend.core.methods.base import Method
from backend.core.recipe import Recipe, figure
from backend.core.strict import models_in
from backend.core.yaml12 import number_of

Kind = Literal["group", "number", "text", "texts", "names", "sets", "check", "choice"]
Pairs = Iterable[tuple[str, str]]

OPEN_LISTS: dict[str, Kind] = {"evaluation.prompts": "texts", "data.sets": "sets"}
"""Lists have an editor of their own: a text area for each item, or rows of data set, version and weight."""

TEXTS = ("name", "path", "revision", "prompts")
"""Settings that stay text even where they look like numbers."""
LARGE = 1e5
"""An upper bound from here on only guards against slips, and is not worth a person's attention."""
DEPTH = 5
"""No setting lies deeper."""


@dataclass(frozen=True)
class Control:
    """One control of the form, or a group of them. Its label and help are English; the template translates them."""

    name: str
    """`method.r`: the path of the setting, and the name of the field that is sent."""
    label: str
    help: str = ""
    kind: Kind = "text"
    value: Any = None
    """As text for an input; a bool for a check; a list for texts; a list of {name, version, weight} for sets."""
    recommended: str = ""
    """The default as text: a setting that differs from it was changed by hand."""
    why: str = ""
    """Why that is recommended."""
    unit: str = ""
    is_given: bool = False
    """Somebody gave it, be it the recommended value."""
    is_rare: bool = False
    """Most people never touch it: it stands behind the others."""
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
        """Set by hand. Blank takes the recommendation, so it is no change."""
        return self.kind not in ("group", "sets") and text_of(self.value) not in ("", self.recommended)

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """What is worth saying of its range."""
        return self.minimum, self.maximum if self.maximum is None or self.maximum < LARGE else None


def recipe_controls(data: object, problems: Sequence[Problem] = ()) -> list[Control]:
    """The controls of the whole recipe, filled with `data`, each problem at its field."""
    errors: dict[str, str] = {}
    for problem in problems:
        errors.setdefault(problem.where, f"{problem.message} {problem.hint}".strip())
    advised = recommended(data)
    return [_advised(control, advised) for control in _controls(Recipe, data, errors, "")]


def recommended(data: object) -> dict[str, str]:
    """Recommendations that stand in no default: those of the chosen method, which may follow what else was set."""
    method = chosen_method(data)
    given = data.get("method") if isinstance(data, Mapping) else None
    own = method.recommended(given if isinstance(given, Mapping) else {})
    rate = {"training.learning_rate": text_of(method.learning_rate)}
    return rate | {f"method.{name}": text_of(value) for name, value in own.items()}


def _advised(control: Control, advised: Mapping[str, str]) -> Control:
    inside = tuple(_advised(inner, advised) for inner in control.inside)
    if control.name not in advised:
        return replace(control, inside=inside)
    wanted = advised[control.name]
    value = control.value if control.is_given else wanted  # what nobody gave follows the recommendation
    return replace(control, recommended=wanted, value=value, required=False)


def leaves(controls: Iterable[Control]) -> Iterator[Control]:
    """The settings in all groups, in order."""
    for control in controls:
        if control.kind == "group":
            yield from leaves(control.inside)
        else:
            yield control


def pencilled(controls: Iterable[Control]) -> dict[str, str]:
    """What is sent of each setting that stands as recommended: sent back unchanged, it was set by nobody."""
    plain = [each for each in leaves(controls) if each.kind not in ("sets", "texts") and not each.required]
    return {each.name: each.recommended for each in plain}


def chosen_method(data: object) -> type[Method]:
    method = data.get("method") if isinstance(data, Mapping) else None
    kind = method.get("kind") if isinstance(method, Mapping) else method
    return next((known for known in METHODS if known.model_fields["kind"].default == kind), METHODS[0])


def _controls(model: type[BaseModel], data: object, errors: Mapping[str, str], prefix: str) -> tuple[Control, ...]:
    given = data if isinstance(data, Mapping) else {}
    return tuple(_control(prefix + name, info, given.get(name), errors) for name, info in model.model_fields.items())


def _control(name: str, info: FieldInfo, value: Any, errors: Mapping[str, str]) -> Control:
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    is_given = value is not None
    value = _plain(value if is_given else default)
    more = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    control = Control(
        name,
        info.title or name.rsplit(".")[-1],
        info.description or "",
        recommended=text_of(_plain(default)),
        why=str(more.get("why", "")),
        unit=str(more.get("unit", "")),
        is_given=is_given,
        is_rare=bool(more.get("rare")),
        error=_error_at(name, errors),
        required=info.is_required(),
    )
    if name in OPEN_LISTS:
        return replace(control, kind=OPEN_LISTS[name], value=_list_value(OPEN_LISTS[name], value))
    if members := models_in(info.annotation):
        return _group(control, members, value, errors, _plain(default))
    return _leaf(control, info, value)


def _group(
    control: Control, members: list[type[BaseModel]], value: Any, errors: Mapping[str, str], default: Any
) -> Control:
    """A nested model; where there are several, the field `kind` chooses which one is drawn."""
    value = value if isinstance(value, Mapping) else {}
    by_kind = {m.model_fields["kind"].default: m for m in members if "kind" in m.model_fields}
    if not by_kind:
        return replace(control, kind="group", inside=_controls(members[0], value, errors, control.name + "."))
    usual = default["kind"] if isinstance(default, Mapping) else next(iter(by_kind))
    said = value.get("kind")
    chosen = said if isinstance(said, str) and said in by_kind else usual
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
    if any(get_origin(kind) is tuple for kind in kinds):
        number = "names"
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
    if kind == "texts":
        return [str(item) for item in items]
    return [item if isinstance(item, Mapping) else {"name": str(item)} for item in items]


def text_of(value: Any) -> str:
    """A setting as it stands in an input: `2e-4`, `true`, `q_proj, v_proj`; blank for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return figure(value)
    return ", ".join(map(text_of, value)) if isinstance(value, list | tuple) else str(value)


def _error_at(name: str, errors: Mapping[str, str]) -> str:
    """Problems inside a list (`data.sets.0.name`) belong to the list's one control."""
    inner = f"{name}." if name in OPEN_LISTS else None
    return next((text for where, text in errors.items() if where == name or (inner and where.startswith(inner))), "")


def recipe_from_form(pairs: Pairs) -> dict[str, Any]:
    """The recipe that a form says: `method.r=16` → `{"method": {"r": "16"}}`.

    Of a repeated name the last wins, so a hidden `false` may stand before a checkbox; blank means unset. Names without a
    dot (`csrf_token`, `view`) are the form's own, but for `name`. Data sets come as `data.sets.0.name`, `….weight`, prompts
    as `evaluation.prompts.0`, or all in one text with a line for each. A list of names comes as one text with commas, or as
    a name for each box that is ticked.
    """
    data: dict[str, Any] = {}
    for name, value in pairs:
        if ("." in name or name == "name") and name.count(".") < DEPTH:
            _put(data, name.split("."), value.strip())
    if isinstance(chosen := data.get("data", {}).get("sets"), dict):
        rows = [row for _, row in sorted(chosen.items(), key=_by_number) if isinstance(row, dict)]
        data["data"]["sets"] = [row for row in rows if row.get("name")]
    if "evaluation" in data and "prompts" in data["evaluation"]:
        said = _texts(data["evaluation"].pop("prompts"))
        data["evaluation"] |= {"prompts": said} if said else {}  # blank means unset, as everywhere
    if isinstance(method := data.get("method"), dict):
        known = chosen_method(data).model_fields
        own = {name: value for name, value in method.items() if name in known}  # the others are of the method before
        data["method"] = {name: _names(value, known[name]) for name, value in own.items()}
    return data


def without(data: Mapping[str, Any], unchanged: Mapping[str, str]) -> dict[str, Any]:
    """What a person set by hand: the settings that came back as they were pencilled in are left out."""
    kept: dict[str, Any] = {}
    for group, settings in data.items():
        if not isinstance(settings, Mapping):
            kept |= {} if unchanged.get(group) == text_of(settings) else {group: settings}
            continue
        own = {name: each for name, each in settings.items() if unchanged.get(f"{group}.{name}") != text_of(each)}
        kind = {"kind": settings["kind"]} if "kind" in settings else {}  # what the others belong to
        if own | kind:
            kept[group] = kind | own
    return kept


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [str(text) for _, text in sorted(value.items(), key=_by_number)]
    return [line.strip().replace("\\n", "\n") for line in str(value).splitlines() if line.strip()]


def _names(value: Any, info: FieldInfo) -> Any:
    """`q_proj, v_proj` as a list, where the setting takes one."""
    takes_names = any(get_origin(kind) is tuple for kind in _members(info.annotation))
    if not takes_names or not isinstance(value, str) or "," not in value:
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _by_number(item: tuple[str, Any]) -> int:
    return int(item[0]) if item[0].isdecimal() and len(item[0]) < 10 else 0


def _put(data: dict[str, Any], path: list[str], value: str) -> None:
    *parents, last = path
    at = data
    for parent in parents:
        inner = at.get(parent)
        at[parent] = at = inner if isinstance(inner, dict) else {}
    at.pop(last, None)
    if value:
        at[last] = value if set(path[-2:]) & set(TEXTS) else _typed(value)


def _typed(text: str) -> str | int | float | bool:
    """Forms send text only; a recipe has numbers and booleans, in its YAML view too."""
    if text in ("true", "false"):
        return text == "true"
    number = number_of(text)
    return text if number is None or isinf(number) else number
