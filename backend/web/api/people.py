"""People and their roles. For administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.models import Role, User
from backend.core.people import Identity
from backend.core.strict import Strict
from backend.web.deps import Admin, AnEdge
from backend.web.shapes import PersonOut, RoleName

router = APIRouter(prefix="/people", tags=["people"])

PersonName = Annotated[str, Path(max_length=100, description="The person's name or id.", examples=["ada"])]


class NewPerson(Strict):
    name: str = Field(examples=["ada"])
    password: str = Field(examples=["four words of your own"])
    role: RoleName = "member"


class ChangePerson(Strict):
    role: RoleName | None = Field(None, examples=["viewer"])
    password: str | None = None
    disabled: bool | None = Field(None, description="A disabled person cannot sign in; their tokens are refused.")


@router.get("")
async def list_people(edge: AnEdge, _: Admin) -> list[PersonOut]:
    return await edge.read(lambda session: [PersonOut.model_validate(user) for user in people.listing(session)])


@router.post("", status_code=201)
async def create(body: NewPerson, edge: AnEdge, admin: Admin) -> PersonOut:
    password_hash = await edge.studio.hash_password(body.password)

    def work(session: Session) -> PersonOut:
        user = people.create(session, body.name, password_hash, Role(body.role), by=admin)
        return PersonOut.model_validate(user)

    return await edge.write(work)


@router.patch("/{person}")
async def change(person: PersonName, body: ChangePerson, edge: AnEdge, admin: Admin) -> PersonOut:
    """The last administrator stays one."""
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


@router.delete("/{person}", status_code=204)
async def remove(person: PersonName, edge: AnEdge, admin: Admin) -> None:
    """Their runs and data stay."""
    await edge.write(lambda session: people.remove(session, people.find(session, person), by=admin))
