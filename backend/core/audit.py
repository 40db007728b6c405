"""The audit: who did what, the newest first."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.core.models import Audit, User

PAGE = 500


@dataclass(frozen=True)
class Wanted:
    """Which entries: of one person, of one action or one group of actions (`token`), before one entry."""

    person: str = ""
    action: str = ""
    before: UUID | None = None


def entries(session: Session, wanted: Wanted, limit: int) -> list[tuple[Audit, str | None]]:
    """Entries with the names of who did it; the name is None where that person is gone."""
    query = select(Audit, User.name).outerjoin(User, User.id == Audit.user_id).order_by(Audit.id.desc()).limit(limit)
    if wanted.person:
        query = query.where(func.lower(User.name) == wanted.person.strip().lower())
    if wanted.action:
        group = Audit.action.startswith(wanted.action + ".", autoescape=True)
        query = query.where((Audit.action == wanted.action) | group)
    query = query.where(Audit.id < wanted.before) if wanted.before else query
    return [(row, name) for row, name in session.execute(query)]


def actions(session: Session) -> list[str]:
    """The actions that were ever done, for a choice."""
    return list(session.scalars(select(Audit.action).distinct().order_by(Audit.action)))
