"""API tokens. A token acts for its owner, within its role, until it runs out or is revoked."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Path, Query
from pydantic import Field
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.models import Role
from backend.core.strict import Strict
from backend.web import reading
from backend.web.deps import AnEdge, Edge, Offset
from backend.web.routers import api_router
from backend.web.shapes.people import NewTokenOut, RoleName, TokenOut

router = api_router("/tokens", "tokens")


class NewToken(Strict):
    name: str = Field(examples=["ci"])
    role: RoleName = "member"
    days: int | None = Field(90, ge=1, le=3650, description="Until it runs out; null never does.")


@router.get("")
async def list_tokens(
    edge: AnEdge,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Offset = 0,
) -> list[TokenOut]:
    """Your own, the newest first; everybody's for an administrator."""
    return await edge.read(lambda session: reading.tokens(session, owner_of(edge), limit, offset))


def owner_of(edge: Edge) -> UUID | None:
    """Whose tokens one may see and revoke: None is everybody's."""
    return None if edge.who.may(Role.ADMIN) else edge.who.id


@router.post("", status_code=201)
async def create(body: NewToken, edge: AnEdge) -> NewTokenOut:
    """Make a token for yourself. The secret is in this answer and nowhere else, so an `Idempotency-Key` keeps none."""
    return await edge.write_secret(lambda session: make(session, edge, body))


def make(session: Session, edge: Edge, body: NewToken) -> NewTokenOut:
    owner = people.by_id(session, edge.who.id)
    new = people.create_token(session, owner, body.name, role=Role(body.role), days=body.days, by=edge.who.id)
    session.refresh(new.row)
    return NewTokenOut.model_validate(reading.token_fields(new.row, owner.name) | {"token": new.secret})


@router.delete("/{token}", status_code=204)
async def revoke(token: Annotated[str, Path(max_length=100, description="The token's id.")], edge: AnEdge) -> None:
    """It is refused from now on."""

    def work(session: Session) -> None:
        people.revoke_token(session, token, owner_id=owner_of(edge), by=edge.who.id)

    await edge.write(work)
