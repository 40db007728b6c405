"""One's own settings: language, password, API tokens, browsers."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TypedDict

from fastapi import Request
from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import people
from backend.core.errors import Forbidden, Invalid, StudioError, Unauthenticated
from backend.web import administration, reading
from backend.web.api.me import end_others
from backend.web.api.tokens import NewToken, make, owner_of
from backend.web.contexts.settings import SessionsPage, TokensPage, YouPage
from backend.web.deps import AnEdge, Edge, Offset
from backend.web.door import change_password
from backend.web.failures import problem_out
from backend.web.pages.common import Form, draw, go
from backend.web.render import LANGUAGE_COOKIE, LANGUAGES, YEAR_SECONDS
from backend.web.routers import page_router
from backend.web.shapes.common import ProblemOut
from backend.web.shapes.people import NewTokenOut
from backend.web.studio import is_https

router = page_router()

LISTED = 100
"""Tokens on a page."""
DONE = ("password", "password_tokens", "session", "sessions", "token", "person", "worker")
"""What a redirect may say was done; anything else in the address is ignored."""


class Shared(TypedDict):
    """What every section is given."""

    version: str
    started_at: datetime
    done: str
    error: ProblemOut | None


def shared(edge: Edge, request: Request, error: StudioError | None = None) -> Shared:
    done = request.query_params.get("done", "")
    return Shared(
        version=own_version(),
        started_at=edge.studio.started_at,
        done=done if done in DONE and not error else "",
        error=problem_out(error) if error else None,
    )


@cache
def own_version() -> str:
    """Empty where the studio runs from a checkout that is not installed."""
    try:
        return version("finetune-studio")
    except PackageNotFoundError:
        return ""


# ---- you ------------------------------------------------------------------------------------------------------------


@router.get("/settings")
@router.get("/settings/you")
async def you_page(request: Request, edge: AnEdge) -> Response:
    return await drawn_you(request, edge)


async def drawn_you(request: Request, edge: Edge, error: StudioError | None = None) -> Response:
    holding = await edge.read(lambda session: people.tokens_that_hold(session, edge.who.id))
    return draw(request, YouPage(**shared(edge, request, error), tokens=holding), error=error)


@router.post("/settings/password")
async def set_password(request: Request, form: Form, edge: AnEdge) -> Response:
    new, also_tokens = form.get("new", ""), form.get("revoke") == "on"
    try:
        if new != form.get("again", ""):
            raise Invalid("The two passwords differ.", where="again")
        await change_password(edge, form.get("old", ""), new, revoke_tokens=also_tokens)
    except StudioError as error:
        return await drawn_you(request, edge, error)
    return go("/settings/you?done=password_tokens" if also_tokens else "/settings/you?done=password")


@router.post("/settings/language")
async def set_language(request: Request, form: Form, edge: AnEdge) -> Response:
    language = form.get("language", "")
    if language not in LANGUAGES:
        raise Invalid("The studio speaks English (en) and Chinese (zh).", where="language")
    await edge.write(lambda session: people.set_language(session, people.by_id(session, edge.who.id), language))
    response = go("/settings/you")
    response.set_cookie(LANGUAGE_COOKIE, language, max_age=YEAR_SECONDS, secure=is_https(request), samesite="lax")
    return response


# ---- API tokens -----------------------------------------------------------------------------------------------------


@router.get("/settings/tokens")
async def tokens_page(request: Request, edge: AnEdge, offset: Offset = 0) -> Response:
    return await drawn_tokens(request, edge, offset)


async def drawn_tokens(
    request: Request,
    edge: Edge,
    offset: int = 0,
    *,
    new: NewTokenOut | None = None,
    error: StudioError | None = None,
) -> Response:
    found = await edge.read(lambda session: reading.tokens(session, owner_of(edge), LISTED + 1, offset))
    behind = offset + LISTED if len(found) > LISTED else None
    roles = [role.value for role in people.ROLES if edge.who.may(role)]
    own = shared(edge, request, error)
    page = TokensPage(**own, tokens=found[:LISTED], next_offset=behind, roles=roles, new_token=new)
    return draw(request, page, error=error)


@router.post("/settings/tokens")
async def create_token(request: Request, form: Form, edge: AnEdge) -> Response:
    """The answer shows the secret this once, so it is no redirect."""
    try:
        days = form.get("days") or None
        body = NewToken.model_validate({"name": form.get("name", ""), "role": form.get("role", "member"), "days": days})
        made = await edge.write(lambda session: make(session, edge, body))
    except ValidationError:
        refused = Invalid("A token needs a name, a role and 1 to 3,650 days.")
        return await drawn_tokens(request, edge, error=refused)
    except (Forbidden, Unauthenticated):  # their rights ended at this moment: they are not shown everybody's
        raise
    except StudioError as error:
        return await drawn_tokens(request, edge, error=error)
    return await drawn_tokens(request, edge, new=made)


@router.post("/settings/tokens/{token}/revoke")
async def revoke_token(token: str, edge: AnEdge) -> Response:
    await edge.write(lambda s: people.revoke_token(s, token, owner_id=owner_of(edge), by=edge.who.id))
    return go("/settings/tokens?done=token")


# ---- browsers -------------------------------------------------------------------------------------------------------


@router.get("/settings/sessions")
async def sessions_page(request: Request, edge: AnEdge) -> Response:
    found = await edge.read(lambda session: administration.sessions(session, edge.who))
    return draw(request, SessionsPage(**shared(edge, request), sessions=found))


@router.post("/settings/sessions/end")
async def end_other_sessions(edge: AnEdge) -> Response:
    await edge.write(lambda session: end_others(session, edge.who))
    return go("/settings/sessions?done=sessions")


@router.post("/settings/sessions/{name}/end")
async def end_session(name: str, edge: AnEdge) -> Response:
    def work(session: Session) -> None:
        people.end_session(session, edge.who.id, name)

    await edge.write(work)
    return go("/settings/sessions?done=session")
