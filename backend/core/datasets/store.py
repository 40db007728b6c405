"""Data sets and their versions. A version never changes; it is visible once its file is published and its row committed.

Making one has two halves: `prepare` reads the file and publishes the rows, slowly and without a database; `commit_version`
writes the row. A file whose row was never committed is seen by nobody, and `clean_up` removes it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVarTuple
from uuid import UUID

from sqlalchemy import Select, String, UnaryExpression, cast, distinct, func, or_, select, text, true
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session, defer

from backend.core import uploads
from backend.core.bulk import among
from backend.core.datasets.groups import fitting, groups
from backend.core.datasets.ingest import Order, ingest
from backend.core.datasets.problems import printable
from backend.core.datasets.schema import COLUMNS, Row, from_record
from backend.core.errors import Conflict, Invalid, NotFound, Unavailable
from backend.core.ids import as_uuid, uuid7
from backend.core.models import ENDED, Dataset, DatasetVersion, Json, Run, User
from backend.core.recipe import NAME
from backend.core.settings import Settings
from backend.core.storage import Storage, storage
from backend.core.uploads import Received

Ts = TypeVarTuple("Ts")
GIB, MIB = 1 << 30, 1 << 20
LEFTOVER_HOURS = 24
PREFIX = "datasets"
MOST_VERSIONS = 1000
"""Of one data set: its page tells all of them."""
PAGE_BYTES = 8 * MIB
"""A page of rows ends with the last one that fits: a row may be as long as that itself."""


@dataclass(frozen=True)
class Upload:
    """A received file, and what is to become of it."""

    name: str
    """Of the data set: a new one, or one that gets a new version."""
    source_name: str
    path: Path
    sha256: str
    bytes: int
    format: str | None = None
    columns: Mapping[str, str] | None = None
    skip_bad_rows: bool = False
    owner_id: UUID | None = None
    dataset_id: UUID | None = None
    """Of the data set that stood under that name, and that its sender might change, when the file had come."""

    def as_json(self) -> Json:
        owner, dataset = (known and str(known) for known in (self.owner_id, self.dataset_id))
        return {**asdict(self), "path": str(self.path), "owner_id": owner, "dataset_id": dataset}

    @classmethod
    def from_json(cls, words: Json) -> Upload:
        owner, dataset = (words.get(name) for name in ("owner_id", "dataset_id"))
        ids = {"owner_id": owner and UUID(owner), "dataset_id": dataset and UUID(dataset)}
        return cls(**{**words, "path": Path(words["path"]), **ids})


def upload(name: str, source_name: str, received: Received, **choices: Any) -> Upload:
    """An upload under a name that can be one. Raises `Invalid`."""
    return Upload(
        check_name(name), printable(source_name, 255), received.path, received.sha256, received.bytes, **choices
    )


def check_name(name: str) -> str:
    """The name in its canonical spelling. Raises `Invalid`."""
    name = unicodedata.normalize("NFC", name)
    if len(name) > 80 or len(name.encode(errors="replace")) > 255:
        raise Invalid("The name is too long.", hint="At most 80 characters.", where="name", code="name.long")
    if not NAME.fullmatch(name) or name != name.strip():
        hint = "Letters, digits, spaces and _ . + - are allowed; a letter or digit comes first."
        raise Invalid("That is an invalid name for a data set.", hint=hint, where="name", code="name.invalid")
    return name


@dataclass(frozen=True)
class Prepared:
    """Normalised rows that are published under `key`, with what was found."""

    key: str
    facts: Json


def _given_up(error: Unavailable) -> None:
    raise error


def prepare(
    upload: Upload,
    settings: Settings,
    *,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    wait: Callable[[Unavailable], None] = _given_up,
) -> Prepared:
    """Read, check, normalise and publish. Blocks. Raises `Invalid` with every problem; leaves the uploaded file alone.

    Where the storage takes no file now, `wait` is told why, and it is asked again when that returns.
    """
    if not upload.path.exists():
        raise Invalid("The uploaded file is gone.", hint="Upload it again.", code="upload.gone")
    draft = settings.folder("uploads") / f"{uuid7()}.parquet"
    order = Order(
        path=str(upload.path),
        target=str(draft),
        source_name=upload.source_name,
        limit_bytes=int(settings.upload_limit_gib * GIB),
        format=upload.format,
        columns=upload.columns,
        skip_bad_rows=upload.skip_bad_rows,
    )
    seconds = 120 + 2 * upload.bytes / MIB
    facts = ingest(order, timeout_seconds=seconds, on_progress=on_progress, cancelled=cancelled)
    key = f"{PREFIX}/{facts['sha256'][:2]}/{facts['sha256']}.parquet"
    try:
        _publish(storage(settings), draft, key, wait)
    finally:
        draft.unlink(missing_ok=True)
    return Prepared(key, facts)


def _publish(files: Storage, draft: Path, key: str, wait: Callable[[Unavailable], None]) -> None:
    while True:
        try:
            files.publish(draft, key)
            break
        except Unavailable as error:
            wait(error)
        draft.touch()  # what is old is taken for a leftover


def commit_version(session: Session, upload: Upload, prepared: Prepared) -> DatasetVersion:
    """The new version of the data set, which is made where it is missing; the newest one again where nothing differs.

    Raises `Conflict` where it has as many as one may have.
    """
    dataset = _locked(session, upload.name, upload.owner_id)
    newest_one = _version(session, dataset.id, None)
    facts = prepared.facts
    if newest_one is not None and newest_one.sha256 == facts["sha256"]:
        return newest_one
    number = newest_one.number + 1 if newest_one else 1
    if number > MOST_VERSIONS:
        words = f"“{dataset.name}” has {MOST_VERSIONS:,} versions, and takes no more."
        raise Conflict(words, hint="Upload it under another name.", code="versions.many")
    version = DatasetVersion(
        dataset_id=dataset.id,
        number=number,
        source_name=upload.source_name,
        source_sha256=upload.sha256,
        source_bytes=upload.bytes,
        sha256=facts["sha256"],
        bytes=facts["bytes"],
        key=prepared.key,
        format=facts["format"],
        kind=facts["kind"],
        rows=facts["rows"],
        facts=facts,
        created_by=upload.owner_id,
    )
    session.add(version)
    session.flush()
    return version


def _locked(session: Session, name: str, owner_id: UUID | None) -> Dataset:
    """The data set's row, locked, so that versions are numbered one after the other."""
    row = insert(Dataset).values(id=uuid7(), name=name, owner_id=owner_id)
    session.execute(row.on_conflict_do_nothing(index_elements=["name"], index_where=text("deleted_at IS NULL")))
    query = select(Dataset).where(Dataset.name == name, Dataset.deleted_at.is_(None)).with_for_update()
    return session.execute(query).scalar_one()


# ---- reading --------------------------------------------------------------------------------------------------------


def find(session: Session, name_or_id: str) -> Dataset:
    """A data set by name or id. Raises `NotFound`."""
    dataset = _find(session, name_or_id)
    if dataset is None:
        raise NotFound(f"There is no data set “{printable(name_or_id)}”.", hint="Look it up in the list of data sets.")
    return dataset


def _find(session: Session, name_or_id: str) -> Dataset | None:
    key, name = as_uuid(name_or_id), unicodedata.normalize("NFC", name_or_id)
    if key is None and not NAME.fullmatch(name):
        return None  # no data set has such a name, and Postgres could not even be asked for some of them
    where = Dataset.id == key if key else Dataset.name == name
    return session.execute(select(Dataset).where(where, Dataset.deleted_at.is_(None))).scalar_one_or_none()


def newest(session: Session, name_or_id: str, number: int | None = None) -> DatasetVersion | None:
    """The newest version of a data set, or the one of that number, if there is one."""
    dataset = _find(session, name_or_id)
    return _version(session, dataset.id, number) if dataset else None


def version(session: Session, name_or_id: str, number: int | None = None) -> DatasetVersion:
    """The same. Raises `NotFound`."""
    found = _version(session, find(session, name_or_id).id, number)
    if found is None:
        raise NotFound(f"“{name_or_id}” has no version {number}.")
    return found


def _version(session: Session, dataset_id: UUID, number: int | None) -> DatasetVersion | None:
    query = select(DatasetVersion).where(DatasetVersion.dataset_id == dataset_id)
    query = query.where(DatasetVersion.number == number) if number is not None else query
    return session.execute(query.order_by(DatasetVersion.number.desc()).limit(1)).scalar_one_or_none()


def versions(session: Session, dataset_id: UUID) -> list[DatasetVersion]:
    """Every version, the newest first, without what reading it found: together that is large."""
    query = select(DatasetVersion).options(defer(DatasetVersion.facts)).where(DatasetVersion.dataset_id == dataset_id)
    return list(session.scalars(query.order_by(DatasetVersion.number.desc())))


def count_versions(session: Session, dataset_id: UUID) -> int:
    """How many versions there are."""
    return session.scalar(select(func.count()).where(DatasetVersion.dataset_id == dataset_id)) or 0


@dataclass(frozen=True)
class Listed:
    """A data set as lists show it."""

    dataset: Dataset
    newest: DatasetVersion
    versions: int
    owner: str | None


Sort = Literal["changed", "name", "rows", "size"]
ORDERS: dict[str, tuple[UnaryExpression[Any], ...]] = {
    "changed": (DatasetVersion.id.desc(),),
    "name": (func.lower(Dataset.name).asc(),),
    "rows": (DatasetVersion.rows.desc(), DatasetVersion.id.desc()),
    "size": (DatasetVersion.source_bytes.desc(), DatasetVersion.id.desc()),
}


@dataclass(frozen=True)
class Narrowed:
    """What a list is narrowed to, and its order."""

    q: str = ""
    format: str = ""
    sort: Sort = "changed"
    name: str = ""


def listing(session: Session, *, limit: int = 100, offset: int = 0, wanted: Narrowed = Narrowed()) -> list[Listed]:
    """The data sets, those that changed last first."""
    query = _wanted(wanted).order_by(*ORDERS[wanted.sort]).limit(limit).offset(offset)
    return [Listed(*row) for row in session.execute(query)]


def count(session: Session, wanted: Narrowed) -> int:
    """How many data sets the list would hold."""
    return session.scalar(select(func.count()).select_from(_wanted(wanted).subquery())) or 0


def _wanted(wanted: Narrowed) -> Select[Any]:
    counted = (
        select(DatasetVersion.dataset_id, func.max(DatasetVersion.number).label("number"), func.count().label("count"))
        .group_by(DatasetVersion.dataset_id)
        .subquery()
    )
    query = (
        select(Dataset, DatasetVersion, counted.c.count, User.name)
        .join(counted, counted.c.dataset_id == Dataset.id)
        .join(DatasetVersion, (DatasetVersion.dataset_id == Dataset.id) & (DatasetVersion.number == counted.c.number))
        .outerjoin(User, User.id == Dataset.owner_id)
        .where(Dataset.deleted_at.is_(None))
    )
    if wanted.q:
        named = Dataset.name.icontains(wanted.q, autoescape=True)
        columned = DatasetVersion.facts["columns"].astext.icontains(wanted.q, autoescape=True)
        query = query.where(or_(named, columned))
    if wanted.format:
        query = query.where(DatasetVersion.format == wanted.format)
    if wanted.name:
        query = query.where(Dataset.name == unicodedata.normalize("NFC", wanted.name))
    return query


def formats_in_use(session: Session) -> list[str]:
    """The shapes of all that is there."""
    query = select(DatasetVersion.format).join(Dataset, Dataset.id == DatasetVersion.dataset_id)
    return sorted(session.scalars(query.where(Dataset.deleted_at.is_(None)).distinct()))


def runs_of(session: Session, dataset_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many runs learned from each, by the versions that they name."""
    query = beside_versions(select(DatasetVersion.dataset_id, func.count(distinct(Run.id))))
    query = query.where(DatasetVersion.dataset_id.in_(dataset_ids)).group_by(DatasetVersion.dataset_id)
    return {row[0]: row[1] for row in session.execute(query)} if dataset_ids else {}


def beside_versions(query: Select[*Ts]) -> Select[*Ts]:
    """Runs beside the versions that they learn from. Postgres looks those up: a data set may have any number."""
    each = func.jsonb_array_elements(Run.data).table_valued("value", joins_implicitly=True)
    pin = cast(each.c.value, JSONB)["version_id"].astext
    return query.select_from(Run).join(each, true()).join(DatasetVersion, cast(DatasetVersion.id, String) == pin)


def removed(session: Session, limit: int = 100) -> list[Dataset]:
    """Data sets that were deleted and can be brought back, the latest first."""
    query = select(Dataset).where(Dataset.deleted_at.is_not(None)).order_by(Dataset.deleted_at.desc())
    return list(session.scalars(query.limit(limit)))


def rows(storage: Storage, version: DatasetVersion, offset: int = 0, limit: int = 20) -> list[Row]:
    """Rows of a version from `offset` on: `limit`, or as many as `PAGE_BYTES` hold, but one at least. Only the row groups that
    hold them are read, one at a time. Blocks."""
    return read_rows(storage.fetch(version.key), offset, limit)


def read_rows(path: Path, offset: int, limit: int) -> list[Row]:
    """The same, from a normalised file."""
    import pyarrow.parquet as pq

    found: list[Row] = []
    room = PAGE_BYTES
    with pq.ParquetFile(path) as file:
        for group in groups(file):
            skipped = max(0, offset - group.start)
            if skipped >= group.count:
                continue
            rest = file.read_row_group(group.index, COLUMNS).slice(skipped, limit - len(found))
            page = rest.slice(0, max(fitting(rest, room), 0 if found else 1))
            found += map(from_record, page.to_pylist())
            room -= page.nbytes
            if len(page) < len(rest) or len(found) == limit:
                break
    return found


# ---- removing -------------------------------------------------------------------------------------------------------


def delete(session: Session, name_or_id: str) -> Dataset:
    """Take a data set out of sight; `restore` brings it back. Raises `Conflict` while a run that has not ended needs it."""
    dataset = find(session, name_or_id)
    session.refresh(dataset, with_for_update=True)
    needing = _runs_that_need(session, dataset.id)
    if needing:
        raise Conflict(
            f"“{dataset.name}” is used by {', '.join(f'“{name}”' for name in needing)}.",
            hint="Delete it when the run has ended, or stop the run.",
            code="dataset.in_use",
        )
    dataset.deleted_at = datetime.now(UTC)
    session.flush()
    return dataset


def _runs_that_need(session: Session, dataset_id: UUID) -> list[str]:
    needing = (Run.state.not_in(ENDED), DatasetVersion.dataset_id == dataset_id)
    query = beside_versions(select(Run.name)).where(*needing)
    return list(session.scalars(query.group_by(Run.id).order_by(Run.id).limit(10)))


def restore(session: Session, dataset_id: UUID) -> Dataset:
    """Undo a deletion. Raises `NotFound`, and `Conflict` where another data set has taken the name."""
    dataset = session.get(Dataset, dataset_id, with_for_update=True)
    if dataset is None:
        raise NotFound("There is no such data set.")
    if dataset.deleted_at is not None and _find(session, dataset.name):
        raise Conflict(f"There is another data set “{dataset.name}” now.", hint="Rename or delete that one first.")
    dataset.deleted_at = None
    session.flush()
    return dataset


def sweep_uploads(session: Session, settings: Settings) -> None:
    """Remove what broken-off uploads left behind, and what finished ones told for a day."""
    uploads.sweep(settings.folder("uploads"), LEFTOVER_HOURS, uploads.being_read(session))


def clean_up(session: Session, settings: Settings) -> None:
    """Remove what broken-off uploads and unfinished versions left behind. For the start of a web process."""
    sweep_uploads(session, settings)
    files = storage(settings)
    old = files.old_keys(PREFIX, LEFTOVER_HOURS)
    if uploads.being_read(session):
        return  # what broke off is published anew under the same key, and belongs to no version yet
    known = set(session.scalars(select(DatasetVersion.key).where(among(DatasetVersion.key, old))))
    for key in set(old) - known:
        files.delete_old(key, LEFTOVER_HOURS)  # the same rows may have been published anew meanwhile
