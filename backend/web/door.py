"""Signing in and out, and the first visit."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from backend.core import people
from backend.core.errors import Forbidden, Invalid, TooMany, Unauthenticated
from backend.core.models import User
from backend.web.deps import Edge
from backend.web.studio import Studio, cookie_name, is_https


def address_of(request: Request) -> str:
    return request.client.host if request.client else "unknown"


async def check_password(studio: Studio, request: Request, name: str, password: str) -> User:
    """The person, if name and password fit. Raises `Unauthenticated`, or `TooMany` after too many failures."""
    address, account = address_of(request), name.strip().lower()[:100]
    studio.by_address.attempt(address)
    studio.by_account.attempt(account)
    user = await studio.read(lambda session: people.by_name(session, name))
    if await studio.password_matches(password, user.password_hash if user else None) and user:
        studio.by_address.forgive(address)
        studio.by_account.forget(account)
        return user
    if user:  # names that are nobody's are not written down: a stranger could fill the disk with them
        await studio.write(lambda session: people.audit(session, user.id, "sign_in.failed", user.name, address=address))
    raise Unauthenticated("Name and password do not fit together.", code="sign_in")


async def sign_in(studio: Studio, request: Request, user: User, target: str) -> Response:
    """A redirect that carries the cookie of a fresh sign-in; the one before it ends."""
    hours = studio.settings.session_hours
    agent = request.headers.get("user-agent", "")
    before = request.state.identity

    def work(session: Session) -> str:
        if before and before.via == "session":
            people.sign_out(session, before)
        return people.sign_in(session, user, agent, hours=hours)

    response = RedirectResponse(target, 303)
    response.set_cookie(
        cookie_name(request),
        await studio.write(work),
        max_age=hours * 3600,
        secure=is_https(request),
        httponly=True,
        samesite="lax",
    )
    return response


async def first_visit(studio: Studio, request: Request, token: str, name: str, password: str, again: str) -> User:
    """Make the first administrator. Raises `Forbidden` for a link that does not hold, `Invalid` for the rest."""
    await _check_link(studio, request, lambda session: people.check_setup_token(session, token))
    password_hash = await _chosen_password(studio, password, again)
    user = await studio.write(lambda session: people.create_first_admin(session, token, name, password_hash))
    (studio.settings.folder("run") / "setup-link").unlink(missing_ok=True)
    return user


async def accept_invitation(studio: Studio, request: Request, token: str, password: str, again: str) -> User:
    """Set the password of whom the link is for. Raises `Forbidden` for a link that does not hold, `Invalid` for the rest."""
    await _check_link(studio, request, lambda session: people.invited(session, token))
    password_hash = await _chosen_password(studio, password, again)
    return await studio.write(lambda session: people.accept(session, token, password_hash))


async def _check_link(studio: Studio, request: Request, check: Callable[[Session], object]) -> None:
    """Whoever tries many links that do not hold is made to wait, as with passwords."""
    studio.by_address.check(address_of(request))
    try:
        await studio.read(check)
    except Forbidden:
        studio.by_address.fail(address_of(request))
        raise


async def _chosen_password(studio: Studio, password: str, again: str) -> str:
    """Its hash. Raises `Invalid`."""
    if password != again:
        raise Invalid("The two passwords differ.", where="again")
    return await studio.hash_password(password)


async def change_password(edge: Edge, old: str, new: str, *, revoke_tokens: bool = False) -> None:
    """Raises `Forbidden` where the old password is wrong: a stolen session must not become an account."""
    account = edge.who.name.lower()
    edge.studio.by_account.attempt(account)
    user = await edge.read(lambda session: people.find(session, str(edge.who.id)))
    if not await edge.studio.password_matches(old, user.password_hash):
        raise Forbidden("The old password is not right.", where="old")
    edge.studio.by_account.forget(account)
    password_hash = await edge.studio.hash_password(new)

    def work(session: Session) -> None:
        own = people.find(session, str(edge.who.id))
        people.set_password(session, own, password_hash, by=edge.who, revoke_tokens=revoke_tokens)

    await edge.write(work)


EXPECTED = (Unauthenticated, Forbidden, Invalid, TooMany)
"""What a person who signs in is told beside the form."""
