"""The person who asks."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path
from pydantic import Field, StrictBool
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.people import Identity
from backend.core.strict import Strict
from backend.web import administration, reading
from backend.web.deps import AnEdge
from backend.web.door import change_password
from backend.web.render import person_of
from backend.web.routers import api_router
from backend.web.shapes.people import PersonOut, SessionOut

router = api_router("/me", "people")


class ChangeMe(Strict):
    language: Literal["en", "zh"] = Field(examples=["zh"])


class ChangePassword(Strict):
    old: str = Field(examples=["the one of today"])
    new: str = Field(examples=["four words of your own"])
    revoke_tokens: StrictBool = Field(False, description="Your API tokens are refused from now on too.")


@router.get("")
async def get_me(edge: AnEdge) -> PersonOut:
    """Whom the token or the cookie stands for. `role` is what it may do."""
    return person_of(edge.who)


@router.patch("")
async def change_me(body: ChangeMe, edge: AnEdge) -> PersonOut:
    def work(session: Session) -> PersonOut:
        own = people.by_id(session, edge.who.id)
        people.set_language(session, own, body.language)
        return reading.person_out(own)

    return await edge.write(work)


@router.put("/password", status_code=204)
async def set_my_password(body: ChangePassword, edge: AnEdge) -> None:
    """Every other sign-in of yours ends."""
    await change_password(edge, body.old, body.new, revoke_tokens=body.revoke_tokens)


@router.get("/sessions")
async def sessions(edge: AnEdge) -> list[SessionOut]:
    """The browsers in which you are signed in, the last seen first."""
    return await edge.read(lambda session: administration.sessions(session, edge.who))


@router.delete("/sessions", status_code=204)
async def end_other_sessions(edge: AnEdge) -> None:
    """Sign out everywhere but here."""
    await edge.write(lambda session: end_others(session, edge.who))


def end_others(session: Session, who: Identity) -> None:
    ended = people.end_sessions(session, people.by_id(session, who.id), but=who.credential)
    people.audit(session, who.id, "session.end_others", who.name, count=ended)


@router.delete("/sessions/{name}", status_code=204)
async def end_session(
    name: Annotated[str, Path(max_length=100, description="The session's id.", examples=["6f1d0c3b9a7e4512"])],
    edge: AnEdge,
) -> None:
    """Sign out in that browser."""
    await edge.write(lambda session: people.end_session(session, edge.who.id, name))
