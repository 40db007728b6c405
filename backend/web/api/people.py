"""People and their roles. For administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import Field, StrictBool
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.models import Role, User
from backend.core.people import Identity
from backend.core.strict import Strict
from backend.web import administration
from backend.web.deps import Admin, AnEdge, Offset
from backend.web.routers import api_router
from backend.web.shapes.people import InvitationOut, MemberOut, NewMemberOut, PersonOut, RoleName

router = api_router("/people", "people")

PersonName = Annotated[str, Path(max_length=100, description="The person's name or id.", examples=["ada"])]


class NewPerson(Strict):
    name: str = Field(examples=["ada"])
    password: str | None = Field(
        None, examples=["four words of your own"], description="Null: the answer holds a link by which they set one."
    )
    role: RoleName = "member"


class ChangePerson(Strict):
    role: RoleName | None = Field(None, examples=["viewer"])
    password: str | None = None
    disabled: StrictBool | None = Field(None, description="A disabled person cannot sign in; their tokens are refused.")


@router.get("")
async def list_people(
    edge: AnEdge,
    _: Admin,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Offset = 0,
) -> list[MemberOut]:
    """Everybody, by name."""
    return await edge.read(lambda session: administration.members(session, limit, offset))


@router.post("", status_code=201)
async def create(body: NewPerson, edge: AnEdge, admin: Admin) -> NewMemberOut:
    """A new person, with a first password or with a link by which they set one. The link is in this answer and nowhere
    else, so an `Idempotency-Key` keeps none. A token makes no administrators."""
    password_hash = people.NO_PASSWORD if body.password is None else await edge.studio.hash_password(body.password)
    write = edge.write_secret if body.password is None else edge.write
    return await write(lambda session: make(session, body, password_hash, admin))


def make(session: Session, body: NewPerson, password_hash: str, admin: Identity) -> NewMemberOut:
    user = people.create(session, body.name, password_hash, Role(body.role), by=admin)
    invitation = None if password_hash else invite_out(session, user, admin)
    return NewMemberOut(**PersonOut.model_validate(user).model_dump(), invitation=invitation)


def invite_out(session: Session, user: User, admin: Identity) -> InvitationOut:
    secret = people.invite(session, user, by=admin)
    return InvitationOut(
        link=f"/invitation?token={secret}", expires_at=people.open_invitations(session)[user.id].expires_at
    )


@router.patch("/{person}")
async def change(person: PersonName, body: ChangePerson, edge: AnEdge, admin: Admin) -> PersonOut:
    """The last administrator stays one. A token changes neither its owner nor the password of an administrator, and makes
    none."""
    password_hash = await edge.studio.hash_password(body.password) if body.password is not None else None

    def work(session: Session) -> PersonOut:
        user = people.find(session, person)
        apply(session, user, body, password_hash, admin)
        session.flush()
        return PersonOut.model_validate(user)

    return await edge.write(work)


def apply(session: Session, user: User, body: ChangePerson, password_hash: str | None, admin: Identity) -> None:
    if body.role is not None:
        people.set_role(session, user, Role(body.role), by=admin)
    if password_hash is not None:
        people.set_password(session, user, password_hash, by=admin)
    if body.disabled is not None:
        (people.disable if body.disabled else people.enable)(session, user, by=admin)


@router.post("/{person}/invitation", status_code=201)
async def invite(person: PersonName, edge: AnEdge, admin: Admin) -> InvitationOut:
    """A fresh link by which that person sets their password, once. Links of before no longer hold."""
    return await edge.write_secret(lambda s: invite_out(s, people.find(s, person), admin))


@router.delete("/{person}/sessions", status_code=204)
async def end_sessions(person: PersonName, edge: AnEdge, admin: Admin) -> None:
    """Sign that person out everywhere. Their tokens stay."""
    await edge.write(lambda session: end_all(session, people.find(session, person), admin))


def end_all(session: Session, user: User, admin: Identity) -> None:
    people.check_token_spares(user, admin)
    ended = people.end_sessions(session, user, but=admin.credential)
    people.audit(session, admin.id, "session.end_all", user.name, count=ended)


@router.delete("/{person}", status_code=204)
async def remove(person: PersonName, edge: AnEdge, admin: Admin) -> None:
    """Their runs and data stay."""
    await edge.write(lambda session: people.remove(session, people.find(session, person), by=admin))
