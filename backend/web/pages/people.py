"""People and their roles. For administrators."""

from __future__ import annotations

from fastapi import Request
from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import people
from backend.core.errors import Forbidden, Invalid, StudioError, Unauthenticated
from backend.core.models import User
from backend.core.people import Identity
from backend.web import administration
from backend.web.api.people import ChangePerson, NewPerson, apply, end_all, invite_out, make
from backend.web.contexts.settings import PeoplePage
from backend.web.deps import Admin, AnEdge, Edge
from backend.web.pages.common import Form, draw, go
from backend.web.pages.settings import shared
from backend.web.routers import page_router
from backend.web.shapes.people import InvitationOut

router = page_router()

HOME = "/settings/people"


@router.get("/people")
async def old_address(_: Admin) -> Response:
    return go(HOME)


@router.get(HOME)
async def people_page(request: Request, edge: AnEdge, _: Admin) -> Response:
    return await drawn(request, edge)


async def drawn(
    request: Request,
    edge: Edge,
    *,
    invitation: InvitationOut | None = None,
    invited: str = "",
    error: StudioError | None = None,
) -> Response:
    found = await edge.read(administration.members)
    page = PeoplePage(**shared(edge, request, error), people=found, invitation=invitation, invited=invited)
    return draw(request, page, error=error)


@router.post(HOME)
async def create(request: Request, form: Form, edge: AnEdge, admin: Admin) -> Response:
    """Without a password the answer shows a link this once, so it is no redirect then."""
    password = form.get("password", "")
    try:
        body = NewPerson.model_validate({"name": form.get("name", ""), "role": form.get("role", "member")})
        password_hash = await edge.studio.hash_password(password) if password else people.NO_PASSWORD
        made = await edge.write(lambda session: make(session, body, password_hash, admin))
    except ValidationError:
        return await drawn(request, edge, error=bad_role())
    except (Forbidden, Unauthenticated):  # their rights ended at this moment: they are not shown everybody
        raise
    except StudioError as error:
        return await drawn(request, edge, error=error)
    if made.invitation:
        return await drawn(request, edge, invitation=made.invitation, invited=made.name)
    return go(f"{HOME}?done=person")


def bad_role() -> Invalid:
    return Invalid("A role is viewer, member or admin.", where="role")


@router.post(HOME + "/{person}")
async def change(request: Request, person: str, form: Form, edge: AnEdge, admin: Admin) -> Response:
    """`act` = disable | enable | remove | invite | end_sessions, or fields to change."""
    act = form.get("act", "")
    try:
        body = ChangePerson.model_validate(
            {key: form[key] for key in ("role", "password") if form.get(key)}
            | ({"disabled": act == "disable"} if act in ("disable", "enable") else {})
        )
        password_hash = await edge.studio.hash_password(body.password) if body.password else None

        def work(session: Session) -> tuple[InvitationOut | None, str]:
            user = people.find(session, person)
            return changed(session, user, act, body, password_hash, admin), user.name

        invitation, invited = await edge.write(work)
    except ValidationError:
        return await drawn(request, edge, error=bad_role())
    except (Forbidden, Unauthenticated):  # their rights ended at this moment: they are not shown everybody
        raise
    except StudioError as error:
        return await drawn(request, edge, error=error)
    if invitation:
        return await drawn(request, edge, invitation=invitation, invited=invited)
    return go(f"{HOME}?done=person")


def changed(
    session: Session, user: User, act: str, body: ChangePerson, password_hash: str | None, admin: Identity
) -> InvitationOut | None:
    match act:
        case "invite":
            return invite_out(session, user, admin)
        case "remove":
            people.remove(session, user, by=admin)
        case "end_sessions":
            end_all(session, user, admin)
        case _:
            apply(session, user, body, password_hash, admin)
    return None
