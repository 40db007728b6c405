"""YAML 1.2 with the line of every value, read from PyYAML's events.

PyYAML's own resolver is YAML 1.1: `1e-4` becomes text, `no` false, `12:30` 750, and doubled keys are lost. Aliases and
tags are refused, so that nothing can blow up or be constructed. Source: https://yaml.org/spec/1.2.2/ (core schema).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isinf
from typing import Any

import yaml

from backend.core.errors import BadRequest
from backend.core.strict import MOST_VALUES, Path

CONSTANTS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}
INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
MAX_DEPTH = 50


class BadYaml(BadRequest):
    """Not YAML that is understood here; `line` counts from 1."""

    code = "yaml"

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem, where=f"line {line}")
        self.line = line


def read_yaml(text: str) -> tuple[Any, dict[Path, int]]:
    """The data, and the line (from 1) of each path in it. Raises `BadYaml`."""
    lines: dict[Path, int] = {}
    try:
        events = iter(yaml.parse(text, Loader=yaml.CSafeLoader))
        first = next(e for e in events if not isinstance(e, yaml.StreamStartEvent | yaml.DocumentStartEvent))
        data = None if isinstance(first, yaml.StreamEndEvent) else _value(first, events, (), lines)
        _check_end(events)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        last = text.rstrip().count("\n") + 1  # what breaks off is found missing behind the last line
        raise BadYaml(error.problem or "This is not YAML.", min(mark.line + 1, last) if mark else 1) from None
    except yaml.YAMLError:
        raise BadYaml("This is not YAML.", 1) from None
    return data, lines


def _check_end(events: Iterator[Any]) -> None:
    """What stands behind a second `---` would be lost."""
    second: Any = next((event for event in events if isinstance(event, yaml.DocumentStartEvent)), None)
    if second:
        raise BadYaml("A second document (---) is not accepted.", second.start_mark.line + 1)


def _value(event: Any, events: Iterator[Any], path: Path, lines: dict[Path, int]) -> Any:
    line = event.start_mark.line + 1
    lines.setdefault(path, line)
    if len(path) > MAX_DEPTH:
        raise BadYaml("Nested too deeply.", line)
    if len(lines) > MOST_VALUES:
        raise BadYaml(f"This holds more than {MOST_VALUES:,} values.", line)
    match event:
        case yaml.SequenceStartEvent(tag=None, anchor=None):
            items: list[Any] = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                items.append(_value(event, events, (*path, len(items)), lines))
            return items
        case yaml.MappingStartEvent(tag=None, anchor=None):
            return _mapping(events, path, lines)
        case yaml.ScalarEvent(tag=None, anchor=None):
            return event.value if event.style else _scalar(event.value, line)  # quoted text stays text
    raise _special(line)


def _special(line: int) -> BadYaml:
    return BadYaml("Aliases (*), anchors (&) and tags (!) are not accepted.", line)


def _mapping(events: Iterator[Any], path: Path, lines: dict[Path, int]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key, line = getattr(event, "value", None), event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent) or key is None:
            raise BadYaml("A key must be plain text.", line)
        if event.tag or event.anchor:
            raise _special(line)
        if key in mapping:
            raise BadYaml(f"“{key}” stands here twice.", line)
        lines[(*path, key)] = line
        mapping[key] = _value(next(events), events, (*path, key), lines)
    return mapping


def _scalar(text: str, line: int) -> Any:
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    number = number_of(text)
    if number is not None and isinf(number):
        raise BadYaml("This number is out of range.", line)
    return text if number is None else number


def number_of(text: str) -> int | float | None:
    """The number that a plain text is, infinite where it is out of range; None where it is none."""
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else None


class _Dumper(yaml.SafeDumper):
    """PyYAML quotes what YAML 1.1 would read as something else than text, which leaves out some that 1.2 would."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    is_plain = text.lower() not in CONSTANTS and number_of(text) is None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else "'")


_Dumper.add_representer(str, _text)


def as_yaml(data: Any, *, width: int = 100) -> str:
    """YAML that `read_yaml` reads back to the same data; texts longer than `width` are folded."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
