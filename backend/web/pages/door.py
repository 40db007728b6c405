"""Signing in and out, and the first visit."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import JSONResponse, Response

from backend.core import people
from backend.core.errors import Invalid
from backend.web import door
from backend.web.contexts.door import InvitationPage, SetupPage, SignInPage
from backend.web.deps import AnEdge
from backend.web.failures import problem_out
from backend.web.pages.common import Form, draw, go
from backend.web.routers import page_router
from backend.web.security import safe_next
from backend.web.studio import cookie_name, is_https, studio_of

router = page_router()


@router.get("/healthz")
async def health(request: Request, all: bool = False) -> Response:
    """That the process answers, and which of its services do not. With `all` those count: 503 while one is away."""
    away = studio_of(request).pulse.away()
    body = {"status": "degraded", "away": away} if away else {"status": "ok"}
    return JSONResponse(body, 503 if away and all else 200)


@router.get("/signin")
async def sign_in_page(request: Request, next: str = "/") -> Response:
    if request.state.identity:
        return go(safe_next(next))
    return draw(request, SignInPage(next=safe_next(next)))


@router.post("/signin")
async def sign_in(request: Request, form: Form) -> Response:
    studio, target = studio_of(request), safe_next(form.get("next", "/"))
    name = form.get("name", "")
    try:
        user = await door.check_password(studio, request, name, form.get("password", ""))
        return await door.sign_in(studio, request, user, target)
    except door.EXPECTED as error:
        page = SignInPage(name=name, next=target, error=problem_out(error))
        return draw(request, page, error=error)


@router.get("/setup")
async def setup_page(request: Request, token: str = "") -> Response:
    await studio_of(request).read(lambda session: people.check_setup_token(session, token))
    return draw(request, SetupPage(token=token))


@router.post("/setup")
async def setup(request: Request, form: Form) -> Response:
    studio = studio_of(request)
    token, name = form.get("token", ""), form.get("name", "")
    try:
        again = form.get("again", "")
        user = await door.first_visit(studio, request, token, name, form.get("password", ""), again)
    except door.EXPECTED as error:
        return draw(request, SetupPage(token=token, name=name, error=problem_out(error)), error=error)
    return await door.sign_in(studio, request, user, "/")


@router.get("/invitation")
async def invitation_page(request: Request, token: str = "") -> Response:
    user = await studio_of(request).read(lambda session: people.invited(session, token))
    return draw(request, InvitationPage(token, user.name))


@router.post("/invitation")
async def accept_invitation(request: Request, form: Form) -> Response:
    studio, token = studio_of(request), form.get("token", "")
    try:
        password, again = form.get("password", ""), form.get("again", "")
        user = await door.accept_invitation(studio, request, token, password, again)
    except Invalid as error:
        named = await studio.read(lambda session: people.invited(session, token))
        return draw(request, InvitationPage(token, named.name, problem_out(error)), error=error)
    return await door.sign_in(studio, request, user, "/")


@router.post("/signout")
async def sign_out(request: Request, edge: AnEdge) -> Response:
    await edge.write(lambda session: people.sign_out(session, edge.who))
    response = go("/signin")
    response.delete_cookie(cookie_name(request), secure=is_https(request), httponly=True, samesite="lax")
    return response
