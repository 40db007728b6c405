"""What two versions of a data set differ in: rows added, rows left out, and rows of which a part is another now."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.core.datasets.picking import all_rows
from backend.core.datasets.schema import Row
from backend.core.datasets.writer import fingerprint
from backend.core.limited import run_limited
from backend.core.models import DatasetVersion
from backend.core.settings import Settings
from backend.core.storage import storage

DIFFER = "backend.core.datasets.differing:differ_here"
DIFFER_SECONDS = 600
MEMORY_MIB = 1536
EXAMPLES = 10
EXAMPLE_CHARACTERS = 2000


@dataclass(frozen=True)
class Shown:
    """A row in a comparison, its texts shortened: `[(role, text)]`."""

    number: int
    turns: list[tuple[str, str]]


@dataclass(frozen=True)
class Difference:
    """Counts of rows, and the first of each kind. A changed row is told as it was and as it is."""

    same: int
    added: int
    removed: int
    changed: int
    added_rows: list[Shown]
    removed_rows: list[Shown]
    changed_rows: list[tuple[Shown, Shown]]


def differ(settings: Settings, before: DatasetVersion, after: DatasetVersion) -> Difference:
    """What came of `before` in `after`. Blocks, in a limited process."""
    files = storage(settings)
    payload = {"before": str(files.fetch(before.key)), "after": str(files.fetch(after.key))}
    told = run_limited(DIFFER, payload, memory_mib=MEMORY_MIB, timeout_seconds=DIFFER_SECONDS)
    changed = [(_shown(was), _shown(now)) for was, now in told.pop("changed_rows")]
    added, removed = ([_shown(each) for each in told.pop(name)] for name in ("added_rows", "removed_rows"))
    return Difference(**told, added_rows=added, removed_rows=removed, changed_rows=changed)


def _shown(told: dict[str, Any]) -> Shown:
    return Shown(told["number"], [(role, text) for role, text in told["turns"]])


def differ_here(payload: dict[str, Any]) -> dict[str, Any]:
    """The work itself, in this process."""
    before, after = Path(payload["before"]), Path(payload["after"])
    counted = Counter(fingerprint(row)[0] for row in all_rows(before))
    rows_before, added = counted.total(), []
    for row in all_rows(after):
        digest = fingerprint(row)[0]
        if counted[digest]:
            counted[digest] -= 1
        else:
            added.append(_Apart.of(row))
    removed = []
    for row in all_rows(before):  # the last ones of rows that stood several times are those that went
        digest = fingerprint(row)[0]
        if counted[digest]:
            counted[digest] -= 1
            removed.append(_Apart.of(row))
    pairs = _pairs(removed, added)
    gone, come = {id(was) for was, _ in pairs}, {id(now) for _, now in pairs}
    return {
        "same": rows_before - len(removed),
        "added": len(added) - len(pairs),
        "removed": len(removed) - len(pairs),
        "changed": len(pairs),
        "added_rows": [each.told() for each in added if id(each) not in come][:EXAMPLES],
        "removed_rows": [each.told() for each in removed if id(each) not in gone][:EXAMPLES],
        "changed_rows": [(was.told(), now.told()) for was, now in pairs[:EXAMPLES]],
    }


@dataclass(frozen=True, eq=False)
class _Apart:
    """A row that stands in one version only, by what it asks and what it answers."""

    number: int
    asks: bytes
    answers: bytes
    turns: list[tuple[str, str]]

    @classmethod
    def of(cls, row: Row) -> _Apart:
        asks = _digest(message.content for message in row.messages if message.role != "assistant")
        answers = _digest(message.content for message in row.messages if message.role == "assistant")
        said: list[tuple[str, str]] = [(message.role, message.content) for message in row.messages]
        short = [(role, text[:EXAMPLE_CHARACTERS]) for role, text in (said or [("text", row.text or "")])[:20]]
        return cls(row.number, asks, answers, short)

    def told(self) -> dict[str, Any]:
        return {"number": self.number, "turns": self.turns}


def _digest(texts: Iterable[str]) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).digest()


def _pairs(removed: list[_Apart], added: list[_Apart]) -> list[tuple[_Apart, _Apart]]:
    """Rows that went and rows that came which ask the same, or else answer the same: one row, changed."""
    pairs: list[tuple[_Apart, _Apart]] = []
    nothing = _digest([])
    for part in ("asks", "answers"):
        paired = {id(each) for pair in pairs for each in pair}
        came = defaultdict(list)
        for each in reversed(added):
            if id(each) not in paired and getattr(each, part) != nothing:
                came[getattr(each, part)].append(each)
        pairs += [
            (each, came[getattr(each, part)].pop())
            for each in removed
            if id(each) not in paired and came.get(getattr(each, part))
        ]
    return sorted(pairs, key=lambda pair: pair[0].number)
