"""What routes ask for: who is there, and the database as one transaction a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi import Depends, Header, Query
from fastapi.encoders import jsonable_encoder
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session
from starlette.requests import Request

from backend.core import people
from backend.core.errors import Forbidden, Unauthenticated
from backend.core.limited import is_ending
from backend.core.models import Role
from backend.core.people import Identity
from backend.core.settings import Settings
from backend.web import repeats
from backend.web.security import is_streamed
from backend.web.shapes.common import MOST
from backend.web.studio import Studio, studio_of
from backend.web.turns import Turns

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Edge:
    """The edge of the application: only here are transactions committed, and hints leave after that."""

    studio: Studio
    who: Identity
    status: int
    key: str
    fingerprint: str

    @property
    def settings(self) -> Settings:
        return self.studio.settings

    async def read(self, work: Callable[[Session], T]) -> T:
        return await self.studio.read(work)

    async def write(self, work: Callable[[Session], T]) -> T:
        """What `work` returns is the route's answer; with an `Idempotency-Key` it is kept for the next time. Raises
        `Unauthenticated` where the credential has ended since the request began, which may be an hour ago."""
        return await self.studio.write(self._still_allowed(self._once(work) if self.key else work))

    async def write_secret(self, work: Callable[[Session], T]) -> T:
        """The same, for an answer that holds a secret: no `Idempotency-Key` keeps it."""
        return await self.studio.write(self._still_allowed(work))

    async def apart(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what has rows or files read in a limited process: in a thread, in one's turn."""
        return await self._in_turn(self.studio.reading, partial(work, *args, **kwargs))

    async def listed(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what goes through all the models that lie here: in a thread, in one's turn. It is mostly known by now, so
        that nobody who looks waits for rows that are read."""
        return await self._in_turn(self.studio.listing, partial(work, *args, **kwargs))

    async def asked(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what waits for the hub: in a thread, in one's turn."""
        return await self._in_turn(self.studio.asking, partial(work, *args, **kwargs))

    async def _in_turn(self, turns: Turns, work: Callable[[], T]) -> T:
        async with turns.of(self.who.id):
            is_ending.set(self.studio.operations.closing.is_set)  # threads are given this request's context
            return await asyncio.to_thread(work)

    def _still_allowed(self, work: Callable[[Session], T]) -> Callable[[Session], T]:
        def allowed(session: Session) -> T:
            now = people.find_credential(session, self.who.via, self.who.credential)
            if now is None:
                raise Unauthenticated("Your sign-in or token ended meanwhile.", hint="Sign in again, then try again.")
            if not now.may(self.who.role):
                raise Forbidden("Your role was changed meanwhile.", hint="Reload the page: it shows what you may do.")
            return work(session)

        return allowed

    def _once(self, work: Callable[[Session], T]) -> Callable[[Session], T]:
        def once(session: Session) -> T:
            repeats.reserve(session, self.who.id, self.key, self.fingerprint)
            answer = work(session)
            repeats.remember(session, self.who.id, self.key, self.status, jsonable_encoder(answer))
            return answer

        return once


def identity(request: Request) -> Identity:
    """The person or program that asks; the guard has checked it."""
    who: Identity | None = request.state.identity
    if who is None:
        raise Unauthenticated("Sign in first.")
    return who


Who = Annotated[Identity, Depends(identity)]


async def edge(
    request: Request,
    who: Who,
    idempotency_key: Annotated[
        str,
        Header(
            max_length=repeats.MAX_KEY,
            description="Makes a POST safe to send again: the same answer comes.",
            json_schema_extra={"pattern": "^[ -~]*$"},
        ),
    ] = "",
) -> Edge:
    studio, route = studio_of(request), request.scope["route"]
    status = (isinstance(route, APIRoute) and route.status_code) or 200
    path = request.url.path
    key = repeats.check_key(idempotency_key) if request.method == "POST" else ""
    if not key or not path.startswith("/api/") or is_streamed(request.method, path):
        return Edge(studio, who, status, "", "")
    target = path + "?" + request.url.query
    print_ = repeats.fingerprint(key, request.method, target, await request.body())
    known = repeats.stored(key)
    await studio.read(lambda session: repeats.look_up(session, who.id, known, print_))
    return Edge(studio, who, status, known, print_)


AnEdge = Annotated[Edge, Depends(edge)]


def administrator(who: Who) -> Identity:
    if not who.may(Role.ADMIN):
        raise Forbidden("That is for administrators.", hint="Ask one of them.")
    return who


Admin = Annotated[Identity, Depends(administrator)]

Offset = Annotated[int, Query(ge=0, le=MOST, description="How many to pass over.")]


def may_change(who: Identity, owner_id: Any) -> None:
    """Members change what is their own; administrators everything, and what was left behind by those whose account was
    removed is theirs alone. Raises `Forbidden`."""
    if owner_id != who.id and not who.may(Role.ADMIN):
        raise Forbidden("That belongs to somebody else.", hint="Its owner or an administrator can change it.")
