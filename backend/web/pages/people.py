"""People and their roles. For administrators."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import people
from backend.core.errors import Invalid, StudioError
from backend.core.models import Role
from backend.web import reading
from backend.web.api.people import ChangePerson, apply
from backend.web.contexts import PeoplePage
from backend.web.deps import Admin, AnEdge, Edge
from backend.web.failures import problem_out
from backend.web.pages.common import Form, draw, go

router = APIRouter()


@router.get("/people")
async def people_page(request: Request, edge: AnEdge, _: Admin) -> Response:
    return await drawn(request, edge)


async def drawn(request: Request, edge: Edge, error: StudioError | None = None) -> Response:
    found = await edge.read(lambda session: [reading.person_out(user) for user in people.listing(session)])
    page = PeoplePage(found, error=problem_out(error) if error else None)
    return draw(request, page, status=error.status if error else None)


@router.post("/people")
async def create(request: Request, form: Form, edge: AnEdge, admin: Admin) -> Response:
    try:
        role = role_of(form.get("role", "member"))
        password_hash = await edge.studio.hash_password(form.get("password", ""))
        await edge.write(lambda s: people.create(s, form.get("name", ""), password_hash, role, by=admin))
    except StudioError as error:
        return await drawn(request, edge, error)
    return go("/people")


def role_of(word: str) -> Role:
    try:
        return Role(word)
    except ValueError:
        raise Invalid("A role is viewer, member or admin.", where="role") from None


@router.post("/people/{person}")
async def change(request: Request, person: str, form: Form, edge: AnEdge, admin: Admin) -> Response:
    """`act` = disable | enable | remove, or fields to change."""
    act = form.get("act", "")
    try:
        body = ChangePerson.model_validate(
            {key: form[key] for key in ("role", "password") if form.get(key)}
            | ({"disabled": act == "disable"} if act in ("disable", "enable") else {})
        )
        password_hash = await edge.studio.hash_password(body.password) if body.password else None

        def work(session: Session) -> None:
            user = people.find(session, person)
            if act == "remove":
                people.remove(session, user, by=admin)
            else:
                apply(session, user, body, password_hash, admin)

        await edge.write(work)
    except ValidationError:
        return await drawn(request, edge, Invalid("A role is viewer, member or admin.", where="role"))
    except StudioError as error:
        return await drawn(request, edge, error)
    return go("/people")
