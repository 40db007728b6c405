"""Which shape a file's records have, and which column plays which part. A person may overrule both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.core.catalog import FORMATS
from backend.core.datasets.problems import printable
from backend.core.datasets.schema import Row
from backend.core.errors import Invalid
from backend.core.formats.base import Format


@dataclass(frozen=True)
class Match:
    """A shape, fitted to the columns of one file."""

    format: Format
    mapping: Mapping[str, str]

    def read(self, record: Mapping[str, Any], number: int) -> Row:
        """The row. Raises `BadRow`."""
        return self.format.read({part: record.get(column) for part, column in self.mapping.items()}, number)

    def fits(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Whether most of the first records look like this shape."""
        chosen = [{part: record.get(column) for part, column in self.mapping.items()} for record in records]
        return sum(self.format.fits(record) for record in chosen) * 2 > len(chosen)


def detect(
    records: Sequence[Mapping[str, Any]], name: str | None = None, columns: Mapping[str, str] | None = None
) -> Match:
    """The shape of these first records. `name` overrules the guess, `columns` (part → column) the mapping; a part whose
    column is empty is left out.

    Raises `Invalid` in words: for an unknown shape with the columns found, for one that is known and not taken with why.
    """
    found = list(dict.fromkeys(column for record in records for column in record))
    if name is not None:
        return _chosen(format_named(name), found, columns or {})
    matches = (Match(each, mapping) for each in FORMATS if (mapping := _mapping(each, found, columns or {})))
    match = next((match for match in matches if match.fits(records)), None)
    if match is None:
        known = "; ".join(f"{each.name} ({each.needs()})" for each in FORMATS if not each.refusal)
        raise Invalid(
            f"No known shape has these columns. Found: {_listed(found)}.",
            hint=f"Known shapes with the columns they need: {known}. Rename the columns, or say which plays which part.",
            code="rows.unknown_shape",
        )
    if match.format.refusal:
        raise Invalid(match.format.refusal, hint=match.format.way_out, code="rows.refused_shape")
    return match


def format_named(name: str) -> Format:
    """Raises `Invalid` with the names that exist."""
    taken = {each.name: each for each in FORMATS if not each.refusal}
    if name not in taken:
        raise Invalid(f"{name!r} is no data format.", hint=f"Known: {', '.join(taken)}.", where="format", code="choice")
    return taken[name]


def _chosen(format_: Format, found: list[str], columns: Mapping[str, str]) -> Match:
    mapping = _mapping(format_, found, columns)
    if mapping is None:
        raise Invalid(
            f"{format_.title} needs the columns {format_.needs()}. Found: {_listed(found)}.",
            hint="Rename the columns, or say which plays which part.",
            code="rows.missing_column",
        )
    return Match(format_, mapping)


def _mapping(format_: Format, found: list[str], columns: Mapping[str, str]) -> dict[str, str] | None:
    """Part → column; what a person said wins over the names. None where a required part has no column."""
    parts = {part.name: part for part in format_.parts}
    said = {part: column for part, column in columns.items() if column}
    if not set(columns) <= set(parts) or not set(said.values()) <= set(found):
        return None
    if any(parts[part].required for part in set(columns) - set(said)):
        return None
    renamed = [column for column in found if column not in said.values()]
    guessed = format_.mapping([*said, *renamed])
    if guessed is None:
        return None
    return {part: column for part, column in {**guessed, **said}.items() if part in said or part not in columns}


def _listed(columns: list[str]) -> str:
    shown = ", ".join(map(printable, columns[:20])) or "none"
    return f"{shown} and {len(columns) - 20} more" if len(columns) > 20 else shown
