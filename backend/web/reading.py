"""From rows to the shapes of the API. Reads only; pages and the API share it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, literal, select, union_all
from sqlalchemy.orm import Session

from backend.core import journal, people, recipes, runs
from backend.core.bulk import among
from backend.core.datasets import store
from backend.core.datasets.schema import Row, to_record
from backend.core.errors import NotFound
from backend.core.events import EventKind
from backend.core.ids import as_uuid
from backend.core.models import (
    ACTIVE,
    WORKER_SILENCE,
    AmendmentRow,
    ApiToken,
    Artifact,
    Attempt,
    CheckpointRow,
    Dataset,
    DatasetVersion,
    Device,
    Intent,
    Operation,
    RecipeVersion,
    Run,
    RunEvent,
    SavedRecipe,
    State,
    User,
    Worker,
)
from backend.web.contexts.rooms import RecentDataset
from backend.web.shapes.common import ErrorBody, Json
from backend.web.shapes.datasets import DatasetDetailOut, DatasetOut, OperationOut, VersionOut
from backend.web.shapes.launch import RecipeOut, RecipeVersionOut
from backend.web.shapes.people import PersonOut, TokenOut
from backend.web.shapes.runs import (
    AmendmentOut,
    ArtifactOut,
    AttemptOut,
    CheckpointOut,
    Choices,
    RunDetailOut,
    RunOut,
    SamplesOut,
    WaitOut,
)
from backend.web.shapes.studio import DeviceOut, WorkerOut

MOST_CHOICES = 200


# ---- runs -----------------------------------------------------------------------------------------------------------


def run_outs(session: Session, found: Sequence[Run]) -> list[RunOut]:
    names = _names_around(session, found)
    return [RunOut.model_validate(_run_fields(run, names)) for run in found]


def choices(session: Session) -> Choices:
    """What lists of runs can be narrowed by: data sets and people that there are, and models of runs, by name."""
    kinds = (
        select(literal("models"), Run.model["path"].astext).distinct(),
        select(literal("datasets"), Dataset.name).where(Dataset.deleted_at.is_(None)),
        select(literal("people"), User.name),
    )
    found: defaultdict[str, list[str]] = defaultdict(list)
    for kind, name in session.execute(union_all(*kinds)):
        found[kind].append(name)
    return Choices(**{kind: sorted(found[kind], key=str.lower)[:MOST_CHOICES] for kind in Choices.model_fields})


def runs_by_id(session: Session, run_ids: Iterable[UUID]) -> list[RunOut]:
    return run_outs(session, list(session.scalars(select(Run).where(among(Run.id, run_ids)))))


def runs_after(session: Session, newest: UUID, limit: int) -> list[RunOut]:
    """Runs that were made after this one, the oldest first. Launches wait for each other, so none slips in later."""
    return run_outs(session, list(session.scalars(select(Run).where(Run.id > newest).order_by(Run.id).limit(limit))))


def run_detail(session: Session, run: Run) -> RunDetailOut:
    wait = waiting(session, run)
    return RunDetailOut.model_validate(
        _run_fields(run, _names_around(session, [run]))
        | {
            "recipe": run.recipe,
            "facts": run.facts,
            "notes": run.notes,
            "note": run.note,
            "base": run.model,
            "sets": run.data,
            "waits_for": wait,
            "actions": actions(run, may_start_over=wait is not None and wait.reason == "host_gone"),
        }
    )


def _run_fields(run: Run, names: dict[UUID, str]) -> Json:
    own = (
        "id name state intent attempt seq step total_steps latest progress cause "
        "created_at queued_at started_at ended_at discarded_at"
    )
    return {field: getattr(run, field) for field in own.split()} | {
        "owner": names.get(run.owner_id) if run.owner_id else None,
        "parent": names.get(run.parent_id) if run.parent_id else None,
        "worker": run.holder,
        "model": str(run.model.get("path", "")),
        "method": run.recipe["method"]["kind"],
        "data": [f"{each['name']} v{each['version']}" for each in run.data],
    }


def _names_around(session: Session, found: Sequence[Run]) -> dict[UUID, str]:
    """The names of owners and parents, by id."""
    owners = {run.owner_id for run in found if run.owner_id}
    parents = {run.parent_id for run in found if run.parent_id}
    names: dict[UUID, str] = {}
    if owners:
        names |= dict(session.execute(select(User.id, User.name).where(among(User.id, owners))).all())
    if parents:
        names |= dict(session.execute(select(Run.id, Run.name).where(among(Run.id, parents))).all())
    return names


def waiting(session: Session, run: Run) -> WaitOut | None:
    """The silent host that the run depends on: it holds the run, or alone has the checkpoints to go on from."""
    if run.state not in (State.QUEUED, *ACTIVE):
        return None
    newest = select(Attempt.worker).where(Attempt.run_id == run.id).order_by(Attempt.number.desc()).limit(1)
    needed = session.get(Worker, run.holder or session.scalar(newest) or "")
    if needed is None or _is_alive(needed):
        return None
    told = run.intent != Intent.RUN
    if run.holder and told:
        return WaitOut(reason="cut_off", worker=needed.name, since=needed.seen_at)
    if told or run.place is None or not _has_checkpoint(session, run) or _reaches(session, run.place):
        return None  # another host goes on by itself
    return WaitOut(reason="host_gone", worker=needed.name, since=needed.seen_at)


def _reaches(session: Session, place: str) -> bool:
    """Whether a worker that is heard of reaches the storage `place`."""
    return any(_is_alive(row) for row in session.scalars(select(Worker).where(Worker.place == place)))


def _is_alive(worker: Worker) -> bool:
    return datetime.now(UTC) - worker.seen_at < WORKER_SILENCE


def actions(run: Run, *, may_start_over: bool) -> list[str]:
    """What `runs.py` would allow now: pause, resume, stop (keep), discard, restore, amend, start_over, clone."""
    going_on = run.state in (State.QUEUED, *ACTIVE)
    is_open = going_on or run.state == State.PAUSED
    found = {
        "pause": going_on and run.intent == Intent.RUN,
        "resume": not run.discarded_at
        and (run.state in (State.PAUSED, State.FAILED, State.STOPPED) or (going_on and run.intent == Intent.PAUSE)),
        "stop": is_open and run.intent not in (Intent.STOP, Intent.KEEP),
        "discard": is_open and run.intent != Intent.STOP,
        "restore": bool(run.discarded_at) and not run.facts.get("purged"),
        "amend": is_open and run.intent not in (Intent.STOP, Intent.KEEP),
        "start_over": may_start_over,
        "clone": True,
    }
    return [name for name, is_possible in found.items() if is_possible]


def _has_checkpoint(session: Session, run: Run) -> bool:
    query = select(CheckpointRow.step).where(CheckpointRow.run_id == run.id, CheckpointRow.replaced_at.is_(None))
    return session.scalar(query.limit(1)) is not None


def samples(session: Session, run_id: UUID, first: int = 0, last: int | None = None, **bounds: int) -> SamplesOut:
    """A page as `journal.samples` bounds it."""
    return SamplesOut.model_validate(journal.samples(session, run_id, first, last, **bounds))


@dataclass(frozen=True)
class LogLine:
    """One event, in words."""

    seq: int
    at: datetime
    kind: str
    step: int
    text: str
    data: Json


QUIET = (EventKind.METRICS, EventKind.SAMPLE, EventKind.PROGRESS, EventKind.FACTS)
"""Events that are no lines of a log: they have places of their own."""


def log_lines(session: Session, run_id: UUID, limit: int) -> list[LogLine]:
    """The newest events that are worth a line, in order. Metrics and samples have places of their own."""
    query = select(RunEvent).where(RunEvent.run_id == run_id, RunEvent.kind.not_in(QUIET))
    rows = session.scalars(query.order_by(RunEvent.seq.desc()).limit(limit)).all()
    return [LogLine(row.seq, row.at, row.kind, row.step, in_words(row), row.data) for row in reversed(rows)]


def in_words(event: RunEvent) -> str:
    """What an event says, in English: logs that are downloaded speak one language."""
    data = event.data
    match event.kind:
        case EventKind.STATE:
            cause = data.get("cause") or {}
            return " ".join(filter(None, (data["state"], data.get("worker"), cause.get("message"), cause.get("hint"))))
        case EventKind.PHASE:
            return str(data.get("text") or data["phase"])
        case EventKind.CHECKPOINT:
            return f"checkpoint, {data.get('bytes', 0):,} bytes"
        case EventKind.ARTIFACT:
            return f"artifact {data['kind']}, {data['bytes']:,} bytes, sha256 {data['sha256']}"
        case EventKind.AMENDMENT:
            return f"asked for: {data['field']} = {data['value']}"
        case EventKind.AMENDED:
            return f"change {data['sequence']} holds from here on"
        case EventKind.REWOUND:
            return f"back to step {data['step']}"
        case _:
            return str(data.get("text", event.kind))


def amendments(session: Session, run_id: UUID) -> list[AmendmentOut]:
    query = select(AmendmentRow).where(AmendmentRow.run_id == run_id).order_by(AmendmentRow.sequence)
    return [AmendmentOut.model_validate(row) for row in session.scalars(query)]


def checkpoints(session: Session, run_id: UUID) -> list[CheckpointOut]:
    return [CheckpointOut.model_validate(row) for row in runs.published(session, run_id)]


def attempts(session: Session, run_id: UUID) -> list[AttemptOut]:
    query = select(Attempt).where(Attempt.run_id == run_id).order_by(Attempt.number.desc())
    return [AttemptOut.model_validate(row) for row in session.scalars(query)]


def artifacts(session: Session, run: Run) -> list[ArtifactOut]:
    standing = (Artifact.run_id == run.id, Artifact.withdrawn_at.is_(None))
    return [
        artifact_out(row, run.name)
        for row in session.scalars(select(Artifact).where(*standing).order_by(Artifact.kind))
    ]


def merged_models(session: Session, found: Sequence[Run]) -> dict[UUID, ArtifactOut]:
    """The merged models of these runs, by run."""
    names = {run.id: run.name for run in found}
    standing = (Artifact.run_id.in_(names), Artifact.kind == "merged", Artifact.withdrawn_at.is_(None))
    rows = session.scalars(select(Artifact).where(*standing))
    return {row.run_id: artifact_out(row, names[row.run_id]) for row in rows}


def artifact_out(row: Artifact, run_name: str) -> ArtifactOut:
    own = "id kind step bytes sha256 files facts created_at"
    return ArtifactOut.model_validate(
        {field: getattr(row, field) for field in own.split()}
        | {"run": run_name, "download": f"/api/v1/artifacts/{row.id}/download"}
    )


# ---- data sets ------------------------------------------------------------------------------------------------------


def dataset_outs(
    session: Session, limit: int = 100, offset: int = 0, wanted: store.Narrowed = store.Narrowed()
) -> list[DatasetOut]:
    """Data sets with their newest versions, the latest changed first."""
    found = store.listing(session, limit=limit, offset=offset, wanted=wanted)
    learned = store.runs_of(session, [each.dataset.id for each in found])
    return [
        DatasetOut.model_validate(
            _dataset_fields(each.dataset, each.owner, each.newest, each.versions)
            | {"runs": learned.get(each.dataset.id, 0)}
        )
        for each in found
    ]


def recent_datasets(session: Session, limit: int) -> list[RecentDataset]:
    """The data sets that changed last. Who learned from them, which is dear to count, is not told."""
    found = store.listing(session, limit=limit)
    return [RecentDataset(each.dataset.name, VersionOut.model_validate(each.newest)) for each in found]


def dataset_out(session: Session, dataset: Dataset, number: int | None = None) -> DatasetOut:
    """With the version of that number, or the newest. Raises `NotFound` for one that is not there."""
    shown = store.version(session, str(dataset.id), number)
    owner = session.get(User, dataset.owner_id) if dataset.owner_id else None
    session.refresh(dataset)
    learned = store.runs_of(session, [dataset.id]).get(dataset.id, 0)
    fields = _dataset_fields(dataset, owner.name if owner else None, shown, store.count_versions(session, dataset.id))
    return DatasetOut.model_validate(fields | {"runs": learned})


def dataset_detail(session: Session, dataset: Dataset, number: int | None = None) -> DatasetDetailOut:
    """The same, with every version."""
    out = dataset_out(session, dataset, number)
    return DatasetDetailOut.model_validate(vars(out) | {"history": store.versions(session, dataset.id)})


def _dataset_fields(dataset: Dataset, owner: str | None, newest: DatasetVersion, count: int) -> Json:
    own = {"id": dataset.id, "name": dataset.name, "created_at": dataset.created_at, "owner": owner}
    return own | {"version": newest, "versions": count}


def deleted_dataset(session: Session, name_or_id: str) -> Dataset:
    """The data set of that id or name that was deleted last. Raises `NotFound`."""
    key = as_uuid(name_or_id)
    where = Dataset.id == key if key else Dataset.name == name_or_id
    query = select(Dataset).where(where, Dataset.deleted_at.is_not(None)).order_by(Dataset.deleted_at.desc()).limit(1)
    if found := session.scalar(query):
        return found
    raise NotFound(f"No data set “{name_or_id}” was deleted.")


def row_out(row: Row) -> Json:
    """A normalised row, what is empty left out."""
    return {key: value for key, value in to_record(row).items() if value is not None}


# ---- people, recipes, workers, operations ---------------------------------------------------------------------------


def person_out(user: User) -> PersonOut:
    return PersonOut.model_validate(user)


def token_out(row: ApiToken, owner: str) -> TokenOut:
    return TokenOut.model_validate(token_fields(row, owner))


def token_fields(row: ApiToken, owner: str) -> Json:
    own = "id name role prefix created_at expires_at used_at revoked_at"
    return {field: getattr(row, field) for field in own.split()} | {"owner": owner}


def tokens(session: Session, owner_id: UUID | None, limit: int | None = None, offset: int = 0) -> list[TokenOut]:
    return [token_out(row, owner) for row, owner in people.tokens(session, owner_id, limit, offset)]


def recipe_outs(session: Session, name: str | None = None, limit: int = 100, offset: int = 0) -> list[RecipeOut]:
    """Saved recipes with their newest versions, the latest changed first: `limit` of them, or fewer where they are long; or the
    one that is called `name`."""
    newest = (
        select(RecipeVersion.recipe_id, func.max(RecipeVersion.number).label("number"))
        .group_by(RecipeVersion.recipe_id)
        .subquery()
    )
    order = (RecipeVersion.created_at.desc(), RecipeVersion.id.asc())
    own = (RecipeVersion.recipe_id == newest.c.recipe_id) & (RecipeVersion.number == newest.c.number)
    ids = select(RecipeVersion.id).join(newest, own).order_by(*order).limit(limit).offset(offset)
    if name is not None:
        ids = ids.join(SavedRecipe, SavedRecipe.id == RecipeVersion.recipe_id).where(SavedRecipe.name == name)
    query = (
        select(SavedRecipe, RecipeVersion, User.name)
        .join(RecipeVersion, RecipeVersion.recipe_id == SavedRecipe.id)
        .outerjoin(User, User.id == SavedRecipe.owner_id)
        .where(RecipeVersion.id.in_(recipes.fitting(ids, *order)))
        .order_by(*order)
    )
    return [_recipe_out(*row) for row in session.execute(query)]


def _recipe_out(recipe: SavedRecipe, version: RecipeVersion, owner: str | None) -> RecipeOut:
    return RecipeOut(
        name=recipe.name,
        owner=owner,
        created_at=recipe.created_at,
        version=RecipeVersionOut.model_validate(version),
        versions=version.number,
    )


def workers(session: Session) -> list[WorkerOut]:
    held: defaultdict[str, list[str]] = defaultdict(list)
    on_device: dict[tuple[str, str], Json] = {}
    query = select(Run.holder, Run.name, Run.latest, Attempt.device).where(Run.lease_until.is_not(None))
    current = (Attempt.run_id == Run.id) & (Attempt.number == Run.attempt)
    for holder, name, latest, device_name in session.execute(query.join(Attempt, current).order_by(Run.name)):
        held[str(holder)].append(name)
        gib = latest.get("memory_gib")
        on_device[str(holder), device_name] = {"run": name, "held_gib": gib if isinstance(gib, float) else None}
    devices: dict[Worker, list[DeviceOut]] = defaultdict(list)
    there = select(Worker, Device).outerjoin(Device, Device.worker == Worker.name).order_by(Worker.name, Device.name)
    for worker, device in session.execute(there):
        own = {key: getattr(device, key) for key in ("name", "title", "memory_bytes")} if device else {}
        holding = on_device.get((worker.name, device.name), {}) if device else {}
        devices[worker] += [DeviceOut.model_validate(own | holding)] if device else []
    return [_worker_out(worker, found, held[worker.name]) for worker, found in devices.items()]


def _worker_out(row: Worker, devices: list[DeviceOut], held: list[str]) -> WorkerOut:
    own: dict[str, Any] = {
        key: getattr(row, key) for key in ("name", "place", "facts", "started_at", "seen_at", "drained_at")
    }
    return WorkerOut(devices=devices, runs=held, is_alive=_is_alive(row), **own)


def operation_out(row: Operation) -> OperationOut:
    own = "id kind state done total result created_at ended_at"
    error = row.error and ErrorBody.model_validate(row.error.get("error", row.error))
    about = {"dataset": row.input.get("name", ""), "filename": row.input.get("source_name", "")}
    return OperationOut.model_validate({field: getattr(row, field) for field in own.split()} | about | {"error": error})
