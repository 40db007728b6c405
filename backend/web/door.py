"""Signing in and out, and the first visit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from backend.core import people, throttle
from backend.core.errors import Forbidden, Invalid, TooMany, Unauthenticated
from backend.core.models import User
from backend.core.throttle import Counted
from backend.web.deps import Edge
from backend.web.security import client_address
from backend.web.studio import Studio, cookie_name, is_https

INSIDE = "signed in"
"""Where a wrong old password counts: not with those of strangers at the door, and not for one token or browser alone, of which
a thief could make more."""


async def check_password(studio: Studio, request: Request, name: str, password: str) -> User:
    """The person, if name and password fit. Raises `Unauthenticated`, or `TooMany` after too many failures."""
    address = address_of(request)
    account = await studio.write(partial(attempt, request=request, name=name))
    user = await studio.read(lambda session: people.by_name(session, name))
    if await studio.password_matches(password, user.password_hash if user else None) and user:
        await studio.write(lambda session: forgive(session, address, account))
        return user
    if user:  # names that are nobody's are not written down: a stranger could fill the disk with them
        failed = partial(people.audit, user_id=user.id, action="sign_in.failed", subject=user.name)
        studio.spawn(studio.write(failed))  # beside the answer, which would else take longer for a name that exists
    raise Unauthenticated("Name and password do not fit together.", code="sign_in")


def address_of(request: Request) -> Counted:
    return throttle.address(client_address(request.scope) or "unknown")


def attempt(session: Session, request: Request, name: str) -> Counted:
    """Count an attempt for the address and for the account, which is returned."""
    where = client_address(request.scope) or ""
    account = throttle.account(name, where if people.has_signed_in(session, name, where) else "")
    throttle.attempt(session, address_of(request), account)
    return account


def forgive(session: Session, address: Counted, account: Counted) -> None:
    throttle.forgive(session, address)
    throttle.forget(session, account)


async def sign_in(studio: Studio, request: Request, user: User, target: str) -> Response:
    """A redirect that carries the cookie of a fresh sign-in; the one before it ends."""
    hours = studio.settings.session_hours
    agent = request.headers.get("user-agent", "")
    before = request.state.identity

    def work(session: Session) -> str:
        # First, as everybody locks people before their sign-ins.
        secret = people.sign_in(session, user, agent, hours=hours)
        if before and before.via == "session":
            people.sign_out(session, before)
        return secret

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
    address = address_of(request)
    await studio.write(lambda session: throttle.attempt(session, address))
    await studio.read(check)
    await studio.write(lambda session: throttle.forgive(session, address))


async def _chosen_password(studio: Studio, password: str, again: str) -> str:
    """Its hash. Raises `Invalid`."""
    if password != again:
        raise Invalid("The two passwords differ.", where="again")
    return await studio.hash_password(password)


async def change_password(edge: Edge, old: str, new: str, *, revoke_tokens: bool = False) -> None:
    """Raises `Forbidden` where the old password is wrong: a stolen session must not become an account."""
    account = throttle.account(edge.who.name, INSIDE)
    await edge.studio.write(lambda session: throttle.attempt(session, account))
    user = await edge.read(lambda session: people.by_id(session, edge.who.id))
    if not await edge.studio.password_matches(old, user.password_hash):
        failed = partial(people.audit, user_id=user.id, action="person.password.failed", subject=user.name)
        await edge.studio.write(failed)
        raise Forbidden("The old password is not right.", where="old")
    await edge.studio.write(lambda session: throttle.forget(session, account))
    password_hash = await edge.studio.hash_password(new)

    def work(session: Session) -> None:
        own = people.unchanged(session, edge.who.id)
        if own.password_hash != user.password_hash:
            raise Forbidden("The password was changed at this moment.", where="old")
        people.set_password(session, own, password_hash, by=edge.who, revoke_tokens=revoke_tokens)

    await edge.write(work)


EXPECTED = (Unauthenticated, Forbidden, Invalid, TooMany)
"""What a person who signs in is told beside the form."""
