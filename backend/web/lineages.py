"""The versions of a data set as its page tells them: from what each came, by whom, and which runs learned from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from backend.core.datasets.mending import Lineage, lineage_of
from backend.core.models import DatasetVersion, Run, User


@dataclass(frozen=True)
class VersionLine:
    """One version in the lineage of a data set."""

    number: int
    rows: int
    bytes: int
    format: str
    source_name: str
    source_sha256: str
    source_bytes: int
    created_at: datetime
    by: str | None
    lineage: Lineage | None
    skipped: int
    runs: list[str]
    """Names of the runs that learned from it, the newest first."""


def version_lines(session: Session, history: Sequence[DatasetVersion]) -> list[VersionLine]:
    makers = {each.created_by for each in history if each.created_by}
    names = dict(session.execute(select(User.id, User.name).where(User.id.in_(makers))).all()) if makers else {}
    runs = _runs_by_version(session, [each.id for each in history])
    return [
        _line(each, names.get(each.created_by) if each.created_by else None, runs.get(str(each.id), []))
        for each in history
    ]


def _line(version: DatasetVersion, by: str | None, runs: list[str]) -> VersionLine:
    own = "number rows bytes format source_name source_sha256 source_bytes created_at"
    skipped = int(version.facts.get("skipped", 0))
    fields = {each: getattr(version, each) for each in own.split()}
    return VersionLine(**fields, by=by, lineage=lineage_of(version), skipped=skipped, runs=runs)


def _runs_by_version(session: Session, ids: Sequence[UUID]) -> dict[str, list[str]]:
    pins = [Run.data.contains([{"version_id": str(each)}]) for each in ids]
    query = select(Run.name, Run.data).where(or_(*pins)).order_by(Run.id.desc()).limit(200)
    found: dict[str, list[str]] = {}
    for name, data in session.execute(query):
        for pinned in data:
            found.setdefault(str(pinned.get("version_id")), []).append(name)
    return found
