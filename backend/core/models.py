"""The tables. Postgres owns the truth; `runs.py` and `journal.py` own the rules of who may write what of a run."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, MetaData, Text, func, text
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backend.core.ids import uuid7

Json = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 -- SQLAlchemy reads it from the class
        str: Text(),
        datetime: DateTime(timezone=True),
        Json: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
        float: DOUBLE_PRECISION(),
        int: BigInteger(),
    }


def _id() -> Mapped[UUID]:
    return mapped_column(primary_key=True, default=uuid7)


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


def _empty() -> Mapped[Json]:
    return mapped_column(default=dict, server_default=text("'{}'"))


def _none_yet() -> Mapped[list[Any]]:
    return mapped_column(default=list, server_default=text("'[]'"))


# ---- people ---------------------------------------------------------------------------------------------------------


class Role(StrEnum):
    """What a person may do, each role including the ones before it."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


class User(Base):
    __tablename__ = "users"
    __table_args__ = (Index("uq_users_name_lower", func.lower(text("name")), unique=True),)

    id: Mapped[UUID] = _id()
    name: Mapped[str]
    password_hash: Mapped[str]
    role: Mapped[str]
    language: Mapped[str | None]
    created_at: Mapped[datetime] = _now()
    disabled_at: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]
    """The last request, by cookie or token, to the minute."""


class Invitation(Base):
    """The one-time link by which a person sets their password: one a person, a newer one takes its place. Stored hashed."""

    __tablename__ = "invitations"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True, unique=True)
    created_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime]


class SetupToken(Base):
    """The one-time link that makes the first administrator. Only its hash is stored."""

    __tablename__ = "setup_tokens"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = _now()
    used_at: Mapped[datetime | None]


class SignIn(Base):
    """A browser that is signed in. The cookie's value is stored hashed."""

    __tablename__ = "sessions"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    csrf_token: Mapped[str]
    user_agent: Mapped[str]
    created_at: Mapped[datetime] = _now()
    seen_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]


class ApiToken(Base):
    """A token for programs: `Authorization: Bearer …`. Stored hashed; `prefix` lets a person recognise it."""

    __tablename__ = "api_tokens"

    id: Mapped[UUID] = _id()
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    role: Mapped[str]
    prefix: Mapped[str]
    token_hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Audit(Base):
    """Who did what, from where. Postgres itself refuses to change or delete a row."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_sign_ins", "user_id", "address", postgresql_where=text("action = 'sign_in'")),)

    id: Mapped[UUID] = _id()
    at: Mapped[datetime] = _now()
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    person: Mapped[str | None]
    """Their name at the time, which outlives their account."""
    address: Mapped[str | None]
    action: Mapped[str]
    subject: Mapped[str]
    data: Mapped[Json] = _empty()


class Failure(Base):
    """A failed attempt to sign in. `key` is a hash: what people type into the wrong field may be a password."""

    __tablename__ = "failures"
    __table_args__ = (Index("ix_failures_key_at", "key", "at"), Index("ix_failures_at", "at"))

    id: Mapped[UUID] = _id()
    key: Mapped[str]
    at: Mapped[datetime] = _now()


class Repeat(Base):
    """The answer to a POST that carried an `Idempotency-Key`, given again when the same request comes again."""

    __tablename__ = "repeats"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    status: Mapped[int | None]
    answer: Mapped[Json | None]
    created_at: Mapped[datetime] = _now()


# ---- data and models ------------------------------------------------------------------------------------------------


class Dataset(Base):
    __tablename__ = "datasets"
    __table_args__ = (Index("uq_datasets_name", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),)

    id: Mapped[UUID] = _id()
    name: Mapped[str]
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = _now()
    deleted_at: Mapped[datetime | None]


class DatasetVersion(Base):
    """Immutable. `key` names the normalised Parquet in storage; `facts` is what `ingest` found."""

    __tablename__ = "dataset_versions"
    __table_args__ = (Index("uq_dataset_versions_dataset_id_number", "dataset_id", "number", unique=True),)

    id: Mapped[UUID] = _id()
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    number: Mapped[int]
    source_name: Mapped[str]
    source_sha256: Mapped[str]
    source_bytes: Mapped[int]
    sha256: Mapped[str]
    bytes: Mapped[int]
    key: Mapped[str]
    format: Mapped[str]
    kind: Mapped[str]
    rows: Mapped[int]
    facts: Mapped[Json] = _empty()
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = _now()


class Operation(Base):
    """Background work on data. States: running, succeeded, failed, cancelled."""

    __tablename__ = "operations"

    id: Mapped[UUID] = _id()
    kind: Mapped[str]
    state: Mapped[str]
    input: Mapped[Json] = _empty()
    done: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    total: Mapped[int | None]
    result: Mapped[Json | None]
    error: Mapped[Json | None]
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = _now()
    ended_at: Mapped[datetime | None]


class SavedRecipe(Base):
    __tablename__ = "recipes"

    id: Mapped[UUID] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = _now()


class RecipeVersion(Base):
    __tablename__ = "recipe_versions"
    __table_args__ = (Index("uq_recipe_versions_recipe_id_number", "recipe_id", "number", unique=True),)

    id: Mapped[UUID] = _id()
    recipe_id: Mapped[UUID] = mapped_column(ForeignKey("recipes.id", ondelete="CASCADE"))
    number: Mapped[int]
    body: Mapped[Json]
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = _now()


# ---- runs -----------------------------------------------------------------------------------------------------------


class State(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"
    TRAINING = "training"
    FINISHING = "finishing"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"
    SUCCEEDED = "succeeded"


ACTIVE = (State.PREPARING, State.TRAINING, State.FINISHING)
ENDED = (State.STOPPED, State.FAILED, State.SUCCEEDED)


class Intent(StrEnum):
    """What a person wants of the run: go on, pause, stop and discard, or stop and keep."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"
    KEEP = "keep"


class Run(Base):
    """One run. `attempt` is the fencing token: it grows with every claim; `lease_until` is null when nobody may write."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("(lease_until IS NULL) = (holder IS NULL)", name="holder_has_a_lease"),
        CheckConstraint(
            "(lease_until IS NOT NULL) = (state IN ('preparing', 'training', 'finishing'))", name="active_means_held"
        ),
        Index("ix_runs_waiting", "queued_at", postgresql_where=text("state = 'queued'")),
        Index("ix_runs_held", "holder", postgresql_where=text("lease_until IS NOT NULL")),
        Index("ix_runs_state", "state", "id"),
        Index("ix_runs_owner_id", "owner_id", "id"),
        Index("ix_runs_ended_at", "ended_at"),
        Index("ix_runs_model_path", text("(model ->> 'path')"), "id"),
        Index("ix_runs_data", "data", postgresql_using="gin", postgresql_ops={"data": "jsonb_path_ops"}),
    )

    id: Mapped[UUID] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"))
    recipe: Mapped[Json]
    recipe_version_id: Mapped[UUID | None] = mapped_column(ForeignKey("recipe_versions.id", ondelete="SET NULL"))
    model: Mapped[Json]
    """The base as it was pinned: path, revision, folder, facts."""
    data: Mapped[list[Any]]
    """The pinned data-set versions: [{version_id, name, version, key, sha256, rows, weight}]."""
    place: Mapped[str | None]
    """The storage that holds the run's files; only workers that reach it may claim. Null: anywhere."""

    state: Mapped[str]
    intent: Mapped[str]
    attempt: Mapped[int] = mapped_column(default=0)
    holder: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    begun: Mapped[int] = mapped_column(default=0)
    """The attempt that owns the history; 0 before the first trainer."""
    crashes: Mapped[int] = mapped_column(default=0)
    tries: Mapped[int] = mapped_column(default=0)
    seq: Mapped[int] = mapped_column(default=0)
    """The number of the newest event."""

    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    latest: Mapped[Json] = _empty()
    """The newest value of each metric."""
    progress: Mapped[Json] = _empty()
    facts: Mapped[Json] = _empty()
    cause: Mapped[Json | None]
    """Why it failed or waits: {code, message, hint}."""
    notes: Mapped[list[Any]] = _none_yet()
    note: Mapped[str] = mapped_column(default="", server_default="")
    """What people write beside it."""

    created_at: Mapped[datetime] = _now()
    queued_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    discarded_at: Mapped[datetime | None]


class Attempt(Base):
    """One claim of a run. A run has one that is live, and so has a device. `journal_offset` counts the bytes of its journal
    that are stored; `closed_at` ends that for ever."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index("uq_attempts_live_run", "run_id", unique=True, postgresql_where=text("ended_at IS NULL")),
        Index("uq_attempts_live_device", "worker", "device", unique=True, postgresql_where=text("ended_at IS NULL")),
    )

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    device: Mapped[str]
    base_step: Mapped[int] = mapped_column(default=0)
    journal_offset: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime] = _now()
    ended_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    cause: Mapped[str | None]


class AmendmentRow(Base):
    """A change in mid-run. `step` is the first step that it holds for, once the trainer said so."""

    __tablename__ = "amendments"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    field: Mapped[str]
    value: Mapped[Any] = mapped_column(JSONB(none_as_null=True))
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = _now()
    step: Mapped[int | None]


class RunEvent(Base):
    """The run's event log. `seq` is allotted under the run's row lock, so readers never miss one."""

    __tablename__ = "run_events"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = _now()
    kind: Mapped[str]
    step: Mapped[int]
    attempt: Mapped[int]
    data: Mapped[Json] = _empty()


class Point(Base):
    """One value of one metric. NaN and the infinities are stored as they are.

    That the run exists is not asked of Postgres: whoever stores points holds the run's locked row, no run is ever deleted,
    and asking took half of the time that a point costs.
    """

    __tablename__ = "points"

    run_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]
    at: Mapped[float]


class Bucket(Base):
    """The extremes of `width` steps of a metric, so that a long curve is read fast and no extreme is lost."""

    __tablename__ = "buckets"

    run_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    width: Mapped[int] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(primary_key=True)
    low: Mapped[float | None]
    low_step: Mapped[int | None]
    high: Mapped[float | None]
    high_step: Mapped[int | None]
    odd: Mapped[float | None]
    """The first value that is not finite, if there is one, and its step."""
    odd_step: Mapped[int | None]


class Sample(Base):
    __tablename__ = "samples"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str]
    text: Mapped[str]
    finish: Mapped[str]
    tokens: Mapped[int]


class CheckpointRow(Base):
    """A published checkpoint. The supervisor deletes the files of those that are `replaced_at`, after that was committed."""

    __tablename__ = "checkpoints"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    folder: Mapped[str]
    manifest_sha256: Mapped[str]
    bytes: Mapped[int]
    created_at: Mapped[datetime] = _now()
    replaced_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Artifact(Base):
    """What a run gives away. `folder` is relative to the home; `sha256` covers the list of files with their hashes."""

    __tablename__ = "artifacts"
    __table_args__ = (
        Index("uq_artifacts_run_id_kind", "run_id", "kind", unique=True, postgresql_where=text("withdrawn_at IS NULL")),
    )

    id: Mapped[UUID] = _id()
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    attempt: Mapped[int]
    step: Mapped[int]
    kind: Mapped[str]
    folder: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    files: Mapped[list[Any]]
    facts: Mapped[Json] = _empty()
    created_at: Mapped[datetime] = _now()
    withdrawn_at: Mapped[datetime | None]


# ---- workers --------------------------------------------------------------------------------------------------------


WORKER_SILENCE = timedelta(seconds=30)
"""A worker that was not heard of for this long counts as gone, for people; runs go by their leases."""


class Worker(Base):
    """A worker host, as its supervisor reports it."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    place: Mapped[str]
    facts: Mapped[Json] = _empty()
    started_at: Mapped[datetime] = _now()
    seen_at: Mapped[datetime] = _now()
    drained_at: Mapped[datetime | None]
    """Since when it takes no further run. What it holds, it finishes."""


class Device(Base):
    """One accelerator, or the CPU, of a worker host."""

    __tablename__ = "devices"

    worker: Mapped[str] = mapped_column(ForeignKey("workers.name", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]
    memory_bytes: Mapped[int]


class Outbox(Base):
    """Hints that leave after the commit. A hint that is lost or comes twice changes nothing."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_unsent", "id", postgresql_where=text("sent_at IS NULL")),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    hint: Mapped[str]
    subject: Mapped[str]
    created_at: Mapped[datetime] = _now()
    sent_at: Mapped[datetime | None]
