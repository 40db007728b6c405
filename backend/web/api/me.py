"""The person who asks."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.strict import Strict
from backend.web import reading
from backend.web.deps import AnEdge
from backend.web.door import change_password
from backend.web.render import person_of
from backend.web.shapes import PersonOut

router = APIRouter(prefix="/me", tags=["people"])


class ChangeMe(Strict):
    language: Literal["en", "zh"] = Field(examples=["zh"])


class ChangePassword(Strict):
    old: str = Field(examples=["the one of today"])
    new: str = Field(examples=["four words of your own"])


@router.get("")
async def get_me(edge: AnEdge) -> PersonOut:
    """Whom the token or the cookie stands for. `role` is what it may do."""
    return person_of(edge.who)


@router.patch("")
async def change_me(body: ChangeMe, edge: AnEdge) -> PersonOut:
    def work(session: Session) -> PersonOut:
        people.set_language(session, edge.who.id, body.language)
        return reading.person_out(people.find(session, str(edge.who.id)))

    return await edge.write(work)


@router.put("/password", status_code=204)
async def set_my_password(body: ChangePassword, edge: AnEdge) -> None:
    """Every other sign-in of yours ends."""
    await change_password(edge, body.old, body.new)
