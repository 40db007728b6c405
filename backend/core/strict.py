"""Settings that people write: frozen, unknown keys refused with the nearest known one, every error told at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from backend.core.datasets.problems import SHOWN, Problems, printable
from backend.core.errors import Invalid, Problem

Path = tuple[str | int, ...]

MOST_VALUES = 5_000
"""What people write holds a few hundred values. To say what is wrong with each of half a million, as fit into the largest
request, takes seconds in which nobody else is served."""

CODES = {"extra_forbidden": "unknown_key", **dict.fromkeys(("union_tag_invalid", "literal_error", "enum"), "choice")}
"""What pydantic calls otherwise."""


class Strict(BaseModel):
    """The base of whatever a person may write in a form, a file or a request."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=100_000)


def refuse_crowd(data: object) -> None:
    """Raise `Invalid` where the data holds more values than anybody means, before each of them is looked at."""
    waiting, count = [data], 0
    while waiting and count <= MOST_VALUES:
        value = waiting.pop()
        inner = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else []
        waiting.extend(inner)
        count += len(inner)
    if count > MOST_VALUES:
        raise Invalid(f"This holds more than {MOST_VALUES:,} values.", code="crowded")


def problems_of(error: ValidationError, model: type[BaseModel], data: object) -> Problems:
    """What pydantic found, each at the place where the person wrote it, in words: all are counted, the first are kept."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for each in error.errors(include_url=False, include_input=False):
        path = path_in(data, each["loc"], missing=each["type"] == "missing")
        where = ".".join(printable(str(part)) for part in path)
        found.setdefault((where, CODES.get(each["type"], each["type"])), dict(each))
    first = [_problem(each, code, where, model, data) for (where, code), each in islice(found.items(), SHOWN)]
    return Problems(first, len(found))


def path_in(data: object, location: Path, *, missing: bool = False) -> Path:
    """Pydantic puts the chosen kind of a union into an error's location: what the data does not have is skipped."""
    path: Path = ()
    for part in location:
        if isinstance(data, Mapping) and part in data:
            data, path = data[part], (*path, part)
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data, path = data[part], (*path, part)
    return (*path, location[-1]) if missing else path


def _problem(each: dict[str, Any], code: str, where: str, model: type[BaseModel], data: object) -> Problem:
    if code == "unknown_key":
        known = names_at(model, data, path_in(data, each["loc"])[:-1])
        return Problem(code, "is not a setting.", where, nearest(printable(str(each["loc"][-1])), known))
    if code == "missing":
        return Problem(code, "is required.", where)
    if code == "choice":
        context = each.get("ctx", {})
        choices = context.get("expected_tags") or context.get("expected") or ""
        return Problem(code, f"is not one of {choices}.", where)
    message = str(each["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return Problem(code, message if message.endswith(".") else message + ".", where)


def nearest(word: str, known: list[str]) -> str:
    """`Did you mean lora_alpha?`, or the list of what is known."""
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(known)}."


def names_at(model: type[BaseModel], data: object, path: Path) -> list[str]:
    """The settings that exist at `path`, following the union members that the data chose."""
    models = [model]
    for part in path:
        data = data[part] if isinstance(data, list | tuple | Mapping) else None  # type: ignore[index]
        if isinstance(part, int):
            continue
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [found for annotation in annotations for found in models_in(annotation)]
        kind = data.get("kind") if isinstance(data, Mapping) else None
        models = [m for m in models if "kind" not in m.model_fields or m.model_fields["kind"].default == kind] or models
    return [name for m in models for name in m.model_fields]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every pydantic model that an annotation mentions: in unions, tuples, `Annotated`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple, list):
        return [found for inner in get_args(annotation) if inner is not NoneType for found in models_in(inner)]
    return []
