"""The audit: who did what, the newest first."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.core.models import Audit

PAGE = 500

asking_address: ContextVar[str | None] = ContextVar("asking_address", default=None)
"""From where the request comes that is being answered; the guard sets it, and `people.audit` writes it down."""

asking_token: ContextVar[str | None] = ContextVar("asking_token", default=None)
"""The name of the token that asks, where no browser does: what a program did is told from what its owner did."""


@dataclass(frozen=True)
class Wanted:
    """Which entries: of one person, of one action or one group of actions (`token`), before one entry."""

    person: str = ""
    action: str = ""
    before: UUID | None = None


def entries(session: Session, wanted: Wanted, limit: int) -> list[Audit]:
    query = select(Audit).order_by(Audit.id.desc()).limit(limit)
    if wanted.person:
        query = query.where(func.lower(Audit.person) == wanted.person.strip().lower())
    if wanted.action:
        group = Audit.action.startswith(wanted.action + ".", autoescape=True)
        query = query.where((Audit.action == wanted.action) | group)
    query = query.where(Audit.id < wanted.before) if wanted.before else query
    return list(session.scalars(query))


def actions(session: Session) -> list[str]:
    """The actions that were ever done, for a choice."""
    return list(session.scalars(select(Audit.action).distinct().order_by(Audit.action)))
