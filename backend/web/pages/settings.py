"""One's own language, password and tokens, and the workers."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import people
from backend.core.errors import Invalid, StudioError
from backend.web import reading
from backend.web.api.tokens import NewToken, make, owner_of
from backend.web.contexts import SettingsPage
from backend.web.deps import AnEdge, Edge
from backend.web.door import change_password
from backend.web.failures import problem_out
from backend.web.pages.common import Form, draw, go
from backend.web.render import LANGUAGE_COOKIE, LANGUAGES, YEAR_SECONDS
from backend.web.studio import is_https

router = APIRouter()


@router.get("/settings")
async def settings_page(request: Request, edge: AnEdge) -> Response:
    return await drawn(request, edge)


async def drawn(request: Request, edge: Edge, *, new_token: str = "", error: StudioError | None = None) -> Response:
    def work(session: Session) -> SettingsPage:
        return SettingsPage(
            tokens=reading.tokens(session, owner_of(edge)),
            workers=reading.workers(session),
            new_token=new_token,
            error=problem_out(error) if error else None,
        )

    return draw(request, await edge.read(work), status=error.status if error else None)


@router.post("/settings/tokens")
async def create_token(request: Request, form: Form, edge: AnEdge) -> Response:
    """The answer shows the secret this once, so it is no redirect."""
    try:
        days = form.get("days") or None
        body = NewToken.model_validate({"name": form.get("name", ""), "role": form.get("role", "member"), "days": days})
        made = await edge.write(lambda session: make(session, edge, body))
    except ValidationError:
        refused = Invalid("A token needs a name, a role and 1 to 3,650 days.")
        return await drawn(request, edge, error=refused)
    except StudioError as error:
        return await drawn(request, edge, error=error)
    return await drawn(request, edge, new_token=made.token)


@router.post("/settings/tokens/{token}/revoke")
async def revoke_token(token: str, edge: AnEdge) -> Response:
    await edge.write(lambda s: people.revoke_token(s, token, owner_id=owner_of(edge), by=edge.who.id))
    return go("/settings")


@router.post("/settings/password")
async def set_password(request: Request, form: Form, edge: AnEdge) -> Response:
    try:
        await change_password(edge, form.get("old", ""), form.get("new", ""))
    except StudioError as error:
        return await drawn(request, edge, error=error)
    return go("/settings")


@router.post("/settings/language")
async def set_language(request: Request, form: Form, edge: AnEdge) -> Response:
    language = form.get("language", "")
    if language not in LANGUAGES:
        raise Invalid("The studio speaks English (en) and Chinese (zh).", where="language")
    await edge.write(lambda session: people.set_language(session, edge.who.id, language))
    response = go("/settings")
    response.set_cookie(LANGUAGE_COOKIE, language, max_age=YEAR_SECONDS, secure=is_https(request), samesite="lax")
    return response
