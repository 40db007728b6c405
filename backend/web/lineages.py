"""The versions of a data set as its page tells them: from what each came, by whom, and which runs learned from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from backend.core.datasets import store
from backend.core.datasets.mending import Lineage
from backend.core.models import DatasetVersion, Json, Run, User

MOST_RUNS = 200


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


def version_lines(session: Session, dataset_id: UUID) -> list[VersionLine]:
    """Every version, the newest first. Of what reading one found, only what is shown is read: there may be a thousand."""
    skipped, lineage = DatasetVersion.facts["skipped"], DatasetVersion.facts["lineage"]
    query = select(DatasetVersion, User.name, skipped, lineage).outerjoin(User, User.id == DatasetVersion.created_by)
    query = query.options(defer(DatasetVersion.facts)).where(DatasetVersion.dataset_id == dataset_id)
    found = session.execute(query.order_by(DatasetVersion.number.desc())).all()
    runs = _runs_by_version(session, dataset_id)
    return [_line(version, by, left_out, came, runs.get(version.id, [])) for version, by, left_out, came in found]


def _line(
    version: DatasetVersion, by: str | None, skipped: int | None, lineage: Json | None, runs: list[str]
) -> VersionLine:
    own = "number rows bytes format source_name source_sha256 source_bytes created_at"
    fields = {each: getattr(version, each) for each in own.split()}
    came = Lineage(**lineage) if lineage else None
    return VersionLine(**fields, by=by, lineage=came, skipped=skipped or 0, runs=runs)


def _runs_by_version(session: Session, dataset_id: UUID) -> dict[UUID, list[str]]:
    query = store.beside_versions(select(DatasetVersion.id, Run.name)).where(DatasetVersion.dataset_id == dataset_id)
    found: dict[UUID, list[str]] = {}
    for version_id, name in session.execute(query.order_by(Run.id.desc()).limit(MOST_RUNS)):
        found.setdefault(version_id, []).append(name)
    return found
