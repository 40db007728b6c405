"""Lists of runs: what they are narrowed to, in which order they stand, and how one page follows another."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Float, Select, case, cast, func, literal, select, tuple_
from sqlalchemy.orm import Session, defer

from backend.core.models import ACTIVE, Bucket, Run, State, User
from backend.core.points import WIDTHS

UNSEEN = (defer(Run.facts), defer(Run.notes))
"""What no list shows is not read either."""


class Sort(StrEnum):
    """The order of a list. A minus turns it round; runs without a loss always come last."""

    NEWEST = "-created"
    OLDEST = "created"
    NAME = "name"
    NAME_BACK = "-name"
    LOSS = "loss"
    LOSS_BACK = "-loss"
    EVAL_LOSS = "eval_loss"
    EVAL_LOSS_BACK = "-eval_loss"

    @property
    def is_descending(self) -> bool:
        return self.startswith("-")


@dataclass(frozen=True)
class Wanted:
    """What a list is narrowed to. Empty texts narrow nothing."""

    state: str = ""
    """A state, or `active` for whatever a worker holds."""
    owner: str = ""
    model: str = ""
    data: str = ""
    """The name of a data set."""
    text: str = ""
    """Words in the run's name."""
    sort: Sort = Sort.NEWEST

    @property
    def is_narrowed(self) -> bool:
        return any((self.state, self.owner, self.model, self.data, self.text))

    def conditions(self) -> list[ColumnElement[bool]]:
        owner_id = select(User.id).where(func.lower(User.name) == self.owner.lower()).scalar_subquery()
        found = {
            "state": Run.state.in_(ACTIVE if self.state == "active" else [self.state]),
            "owner": Run.owner_id == owner_id,
            "model": Run.model["path"].astext == self.model,
            "data": Run.data.contains([{"name": self.data}]),
            "text": Run.name.icontains(self.text, autoescape=True),
        }
        return [condition for name, condition in found.items() if getattr(self, name)]


def listing(session: Session, wanted: Wanted = Wanted(), *, limit: int, before: UUID | None = None) -> list[Run]:
    """One page of the list. `before` is the last run of the page before it."""
    key = _key(wanted.sort)
    in_order = [column.desc() if wanted.sort.is_descending else column.asc() for column in key]
    query = select(Run).options(*UNSEEN).where(*wanted.conditions()).order_by(*in_order).limit(limit)
    if before:
        query = _after(session, query, key, before, wanted.sort)
    return list(session.scalars(query))


def _after(session: Session, query: Select[Any], key: list[Any], before: UUID, sort: Sort) -> Select[Any]:
    """The rows behind the cursor, whose values are read as they stand: no page is skipped where a loss moved."""
    at = session.execute(select(*key).where(Run.id == before)).one_or_none()
    if at is None:
        return query
    here, there = tuple_(*key), tuple_(*(literal(value) for value in at))
    return query.where(here < there if sort.is_descending else here > there)


def _key(sort: Sort) -> list[Any]:
    """What is compared, the id last. Ids sort by the time at which they were made."""
    match sort:
        case Sort.NEWEST | Sort.OLDEST:
            return [Run.id]
        case Sort.NAME | Sort.NAME_BACK:
            return [func.lower(Run.name), Run.id]
        case Sort.LOSS | Sort.LOSS_BACK:
            newest = Run.latest["loss"]
            is_number = func.jsonb_typeof(newest) == "number"  # what is not finite is stored as a word
            return [_last_where_none(case((is_number, newest.astext.cast(Float))), sort), Run.id]
        case Sort.EVAL_LOSS | Sort.EVAL_LOSS_BACK:
            return [_last_where_none(best_eval_loss(), sort), Run.id]


def _last_where_none(value: Any, sort: Sort) -> Any:
    return func.coalesce(value, cast("-Infinity" if sort.is_descending else "Infinity", Float))


def best_eval_loss() -> Any:
    """The lowest evaluation loss of a run: the widest buckets hold it in a handful of rows."""
    own = (Bucket.run_id == Run.id, Bucket.name == "eval_loss", Bucket.width == WIDTHS[-1])
    return select(func.min(Bucket.low)).where(*own).scalar_subquery()


def counts(session: Session, wanted: Wanted = Wanted()) -> dict[str, int]:
    """How many runs there are in each state, narrowed by everything but the state itself."""
    query = select(Run.state, func.count()).where(*replace(wanted, state="").conditions()).group_by(Run.state)
    return dict(session.execute(query).all())


def newest_id(session: Session) -> UUID | None:
    """The newest run of all: a live list asks for what comes after it."""
    return session.scalar(select(Run.id).order_by(Run.id.desc()).limit(1))


def unfinished(session: Session, limit: int, states: Collection[str]) -> list[Run]:
    """What trains, then what waits in the order in which it will be taken. `states` are those that runs are in at all."""
    active = select(Run).where(Run.state.in_(ACTIVE)).order_by(Run.started_at.asc().nulls_last(), Run.id)
    waiting = select(Run).where(Run.state == State.QUEUED).order_by(Run.queued_at, Run.id)
    found = [*session.scalars(active.limit(limit))] if any(state in states for state in ACTIVE) else []
    return [*found, *session.scalars(waiting.limit(limit))] if State.QUEUED in states else found


def lately(session: Session, limit: int, states: Collection[str]) -> list[Run]:
    """What ended last, and what is paused. `states` are those that runs are in at all."""
    ended = select(Run).where(Run.ended_at.is_not(None), Run.state.not_in((*ACTIVE, State.QUEUED, State.PAUSED)))
    paused = select(Run).where(Run.state == State.PAUSED).order_by(Run.id.desc())
    rows = [*session.scalars(ended.order_by(Run.ended_at.desc()).limit(limit))]
    rows += session.scalars(paused.limit(limit)) if State.PAUSED in states else []
    return sorted(rows, key=lambda run: run.ended_at or run.started_at or run.created_at, reverse=True)[:limit]
