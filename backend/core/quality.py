"""What may be wrong with the rows of a version: looked for once, in a limited process, and kept on disk."""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backend.core.catalog import CLEANERS
from backend.core.cleaners.base import Cleaner, Hit
from backend.core.datasets.picking import all_rows
from backend.core.datasets.schema import Row
from backend.core.kept import Kept
from backend.core.models import DatasetVersion
from backend.core.settings import Settings
from backend.core.storage import storage

EXAMPLES = 4
TWINS = 6


@dataclass(frozen=True)
class Example:
    """`places` are of the row and, where it repeats one, of its twins."""

    places: tuple[int, ...]
    numbers: tuple[int, ...]
    before: str
    words: str
    behind: str


@dataclass(frozen=True, eq=False)
class Finding:
    """What one cleaner found. `places` are the rows that its fix changes, from 0; `involved` all that are to be shown."""

    name: str
    fix: str
    tone: str
    places: array[int]
    involved: array[int]
    groups: int
    """How many different texts stand several times."""
    examples: tuple[Example, ...]


@dataclass
class Look:
    """What one cleaner has found so far."""

    cleaner: Cleaner
    places: array[int] = field(default_factory=lambda: array("I"))
    twins: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    examples: list[tuple[int, int, Hit]] = field(default_factory=list)

    def add(self, place: int, number: int, hit: Hit) -> None:
        self.places.append(place)
        is_new_group = hit.twin is not None and hit.twin not in self.twins
        if hit.twin is not None:
            self.twins.setdefault(hit.twin, []).append((place, number))
        if len(self.examples) < EXAMPLES and (hit.twin is None or is_new_group):
            self.examples.append((place, number, hit))

    def told(self, numbers: array[int]) -> dict[str, Any]:
        return {
            "name": self.cleaner.name,
            "fix": self.cleaner.fix,
            "tone": self.cleaner.tone,
            "places": self.places.tolist(),
            "involved": sorted({*self.places, *self.twins}),
            "groups": len(self.twins),
            "examples": [asdict(self._example(*each, numbers)) for each in self.examples],
        }

    def _example(self, place: int, number: int, hit: Hit, numbers: array[int]) -> Example:
        if hit.twin is None:
            return Example((place,), (number,), hit.before, hit.words, hit.behind)
        pairs = [(hit.twin, numbers[hit.twin]), *self.twins[hit.twin]][:TWINS]
        places, all_numbers = zip(*pairs, strict=True)
        return Example(places, all_numbers, hit.before, hit.words, hit.behind)


def scan(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """What every cleaner of the catalog finds in these rows; those that find nothing say so with an empty list."""
    looks = [Look(kind()) for kind in CLEANERS]
    numbers = array("Q")
    for place, row in enumerate(rows):
        numbers.append(row.number)
        for look in looks:
            hit = look.cleaner.see(place, row)
            if hit is not None:
                look.add(place, row.number, hit)
    return [look.told(numbers) for look in looks]


def scan_here(payload: dict[str, Any]) -> dict[str, int]:
    """Look through `file` and write `target`. In a limited process."""
    found = scan(all_rows(Path(payload["file"]), tell=True))
    Path(payload["target"]).write_bytes(zlib.compress(json.dumps(found).encode()))
    return {"findings": sum(bool(each["places"]) for each in found)}


# ---- looked for once, kept on disk ----------------------------------------------------------------------------------


def known(settings: Settings, version: DatasetVersion) -> list[Finding] | None:
    """The findings where they have been looked for. Looks at the disk alone."""
    return KEPT.load(_path(settings, version.sha256))


def look(
    settings: Settings,
    version: DatasetVersion,
    *,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Finding]:
    """The findings, looked for where they are not known. Blocks; progress is `{"done", "of"}` in rows."""
    order = {"file": str(storage(settings).fetch(version.key))}
    return KEPT.find(_path(settings, version.sha256), order, on_progress=on_progress, cancelled=cancelled)


def _path(settings: Settings, sha256: str) -> Path:
    return KEPT.path(settings, sha256, [(each.name, each.revision) for each in CLEANERS])


def _read(content: bytes) -> list[Finding]:
    """Raises `ValueError` and its like for what is damaged."""
    return [_finding(each) for each in json.loads(content)]


def _finding(told: dict[str, Any]) -> Finding:
    examples = [
        Example(**{**each, "places": tuple(each["places"]), "numbers": tuple(each["numbers"])})
        for each in told["examples"]
    ]
    arrays = {name: array("I", told[name]) for name in ("places", "involved")}
    return Finding(told["name"], told["fix"], told["tone"], **arrays, groups=told["groups"], examples=tuple(examples))


KEPT = Kept(
    "quality",
    "backend.core.quality:scan_here",
    _read,
    most_bytes=64 << 20,
    room_bytes=256 << 20,
    timeout_seconds=1800,
    memory_mib=1536,
)
