"""One search over everything that has a name: runs, data sets, models and recipes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Select, case, func, literal, select, union_all
from sqlalchemy.orm import Session

from backend.core.models import Dataset, Run, SavedRecipe

Kind = Literal["run", "dataset", "model", "recipe"]
MAX_WORDS = 100


@dataclass(frozen=True)
class Hit:
    """Something whose name holds the words. `note` is its state, where it has one."""

    kind: Kind
    name: str
    note: str | None


def search(session: Session, words: str, models: Iterable[str], limit: int = 5) -> list[Hit]:
    """At most `limit` of each kind, those whose name begins with the words first, then the newest. `models` are those at hand."""
    words = words.strip()[:MAX_WORDS]
    if not words:
        return []
    kinds = [
        _hits("run", Run.name, Run.state, Run.id, words, limit),
        _hits("dataset", Dataset.name, literal(None), Dataset.id, words, limit).where(Dataset.deleted_at.is_(None)),
        _hits("recipe", SavedRecipe.name, literal(None), SavedRecipe.id, words, limit),
    ]
    rows = session.execute(union_all(*(select(kind.subquery()) for kind in kinds)))
    found = [Hit(kind, name, note) for kind, name, note in rows] + _models(models, words.casefold(), limit)
    return sorted(found, key=lambda hit: get_args(Kind).index(hit.kind))


def _hits(kind: Kind, name: Any, note: Any, key: Any, words: str, limit: int) -> Select[Any]:
    begins = case((func.lower(name).startswith(words.lower(), autoescape=True), 0), else_=1)
    query = select(literal(kind).label("kind"), name.label("name"), note.label("note"))
    return query.where(name.icontains(words, autoescape=True)).order_by(begins, key.desc()).limit(limit)


def _models(names: Iterable[str], words: str, limit: int) -> list[Hit]:
    found = [name for name in names if words in name.casefold()]
    found.sort(key=lambda name: (not name.casefold().startswith(words), name))
    return [Hit("model", name, None) for name in found[:limit]]
