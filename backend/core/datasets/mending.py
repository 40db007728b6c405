"""A new version of a data set from one that stands: what a cleaner found is left out, kept once, or masked.

The version before stays as it is, so a fix is undone by going back to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.core.datasets.picking import all_records
from backend.core.datasets.store import PREFIX, Prepared
from backend.core.datasets.writer import Writer
from backend.core.errors import Invalid, NotFound
from backend.core.ids import uuid7
from backend.core.limited import run_limited
from backend.core.models import Dataset, DatasetVersion, Json
from backend.core.settings import Settings
from backend.core.storage import storage

MEND = "backend.core.datasets.mending:mend_here"
MEND_SECONDS = 1800
MEMORY_MIB, SPARE_MIB = 1536, 64


@dataclass(frozen=True)
class Lineage:
    """How a version came from another: kept among its facts."""

    version: int
    """The number of the version that it came from."""
    cleaner: str
    fix: str
    left_out: int
    changed: int


def mend(
    settings: Settings,
    version: DatasetVersion,
    cleaner: str,
    *,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> Prepared:
    """Write and publish the rows of a version as `cleaner` would have them. Blocks; `commit_mended` makes it a version.

    Raises `NotFound` for a cleaner that is none, and `Invalid` where nothing would change or nothing would be left.
    """
    check_cleaner(cleaner)
    source = storage(settings).fetch(version.key)
    draft = settings.folder("uploads") / f"{uuid7()}.parquet"
    try:
        facts = run_limited(
            MEND,
            {"file": str(source), "target": str(draft), "cleaner": cleaner},
            memory_mib=MEMORY_MIB,
            timeout_seconds=MEND_SECONDS,
            file_mib=2 * (source.stat().st_size >> 20) + SPARE_MIB,
            on_progress=on_progress,
        )
        lineage = facts["lineage"] = {"version": version.number, "cleaner": cleaner, **facts["lineage"]}
        check_changes(lineage, facts["rows"])
        key = f"{PREFIX}/{facts['sha256'][:2]}/{facts['sha256']}.parquet"
        storage(settings).publish(draft, key)
    finally:
        draft.unlink(missing_ok=True)
    own = {"skipped": 0, "problems": [], "sample": []}
    return Prepared(key, {**version.facts, **own, **facts})


def check_cleaner(name: str) -> None:
    from backend.core.catalog import CLEANERS

    if name not in (each.name for each in CLEANERS):
        raise NotFound(f"There is no kind of finding “{name[:80]}”.")


def check_changes(lineage: Json, rows: int) -> None:
    if not lineage["left_out"] and not lineage["changed"]:
        raise Invalid("There is nothing to mend: no row would change.", code="mend.nothing")
    if not rows:
        raise Invalid("No row would be left.", hint="Look at the rows that were found first.", code="mend.all")


def mend_here(payload: dict[str, Any]) -> dict[str, Any]:
    """The work itself, in a limited process. Rows are numbered anew; a row that was changed has no record any more."""
    from backend.core.catalog import CLEANERS

    cleaner = next(each for each in CLEANERS if each.name == payload["cleaner"])()
    target, left_out, changed = Path(payload["target"]), 0, 0
    with Writer(target) as writer:
        for place, (row, raw) in enumerate(all_records(Path(payload["file"]), tell=True)):
            found = cleaner.see(place, row) is not None
            kept = cleaner.mended(row) if found else row
            if kept is None:
                left_out += 1
                continue
            changed += kept != row
            writer.add(replace(kept, number=writer.counts.rows + 1), raw if kept == row else None)
    with open(target, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    lineage = {"fix": cleaner.fix, "left_out": left_out, "changed": changed}
    size = {"sha256": sha256, "bytes": target.stat().st_size, "duplicates": writer.duplicates}
    return {**asdict(writer.counts), **size, "lineage": lineage}


def commit_mended(session: Session, parent: DatasetVersion, prepared: Prepared, by: UUID | None) -> DatasetVersion:
    """The rows become the data set's newest version; the same one again where it already has these rows."""
    session.execute(select(Dataset.id).where(Dataset.id == parent.dataset_id).with_for_update())
    own = DatasetVersion.dataset_id == parent.dataset_id
    facts = prepared.facts
    standing = session.scalar(select(DatasetVersion).where(own, DatasetVersion.sha256 == facts["sha256"]).limit(1))
    if standing is not None:
        return standing
    version = DatasetVersion(
        dataset_id=parent.dataset_id,
        number=1 + session.scalars(select(func.max(DatasetVersion.number)).where(own)).one(),
        source_name=parent.source_name,
        source_sha256=parent.source_sha256,
        source_bytes=parent.source_bytes,
        sha256=facts["sha256"],
        bytes=facts["bytes"],
        key=prepared.key,
        format=parent.format,
        kind=parent.kind,
        rows=facts["rows"],
        facts=facts,
        created_by=by,
    )
    session.add(version)
    session.flush()
    return version
