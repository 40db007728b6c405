"""One handler for everything that goes wrong: JSON for programs, a page for people, and the trace for the log alone."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from psycopg.errors import IdleInTransactionSessionTimeout
from sqlalchemy.exc import DataError, IntegrityError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Match

from backend.core.datasets.problems import SHOWN, printable
from backend.core.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Problem,
    StudioError,
    TooMany,
    Unauthenticated,
    Unavailable,
    disk_full,
    has_no_room,
)
from backend.web.contexts.door import ErrorPage
from backend.web.pulse import no_database
from backend.web.render import Renderer
from backend.web.shapes.common import ProblemOut

log = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Told(JSONResponse):
    """JSON without a `<`, which may come from a stranger's name: htmx parses an answer as a page before it looks at its kind."""

    def render(self, content: Any) -> bytes:
        return super().render(content).replace(b"<", b"\\u003c")


class NotAllowed(StudioError):
    """The address exists, but not for this method."""

    status = 405
    code = "method"

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class Broken(StudioError):
    """Our own fault. `incident` finds the trace in the log."""

    status = 500
    code = "internal"

    def __init__(self, incident: str) -> None:
        super().__init__("Something went wrong in the studio.", hint=f"The log says more about incident {incident}.")
        self.incident = incident

    def as_json(self) -> dict[str, Any]:
        body = super().as_json()
        body["error"]["incident"] = self.incident
        return body


def understood(error: Exception, request: Request) -> StudioError:
    """Whatever was raised, as an error that a person may see."""
    match error:
        case RequestValidationError():
            return _unusable(error.errors())
        case HTTPException(status_code=404):
            return NotFound("There is nothing at this address.", code="no_route")
        case HTTPException(status_code=405):
            return NotAllowed(f"{request.method} is not possible here.", allowed=methods_of(request))
        case HTTPException(status_code=403):
            return Forbidden(str(error.detail))
        case HTTPException() if error.status_code < 500:
            return BadRequest(str(error.detail))
        case ClientDisconnect():
            return BadRequest("The connection broke off.")
        case _:
            return in_words(error, f"{request.method} {request.url.path}")


def in_words(error: Exception, doing: str) -> StudioError:
    """What went wrong in the midst of something, in a request or beside all of them."""
    match error:
        case StudioError():
            return error
        case _ if has_no_room(error):
            log.warning("%s: the disk is full: %s", doing, error)
            return disk_full()
        case DataError():
            return Invalid("A value holds what a database cannot: a NUL character, or a number out of range.")
        case IntegrityError():
            log.warning("two requests met: %s", error.orig)
            return Conflict("Somebody else changed the same thing at this moment.", hint="Look at it, and try again.")
        case NoConnectionFree():
            log.warning("every connection to Postgres is in use")
            return no_database()
        case OperationalError():
            log.warning("Postgres cannot be reached: %s", error.orig)
            return no_database()
        case InternalError() if isinstance(error.orig, IdleInTransactionSessionTimeout):
            log.warning("a request stood still in the midst of a transaction, which Postgres took back")
            return Unavailable("The studio has too much to do now.", hint="Nothing was changed. Try again in a moment.")
        case _:
            incident = secrets.token_hex(4)
            log.error("incident %s: %s", incident, doing, exc_info=error)
            return Broken(incident)


def _unusable(found: Sequence[Mapping[str, Any]]) -> Invalid:
    """What is wrong with a request: everybody waits while each problem is put into words, so only the first ones are."""
    hint = f"These are the first {SHOWN} of {len(found):,} problems." if len(found) > SHOWN else ""
    return Invalid("The request cannot be used.", hint=hint, problems=tuple(map(_problem, found[:SHOWN])))


def _problem(found: Mapping[str, Any]) -> Problem:
    parts = (printable(str(part)) for part in found["loc"] if part not in ("body", "query", "path", "header"))
    where = ".".join(parts)
    return Problem(str(found["type"]), str(found["msg"]), where)


def answer(request: Request, error: Exception, renderer: Renderer) -> Response:
    """The response for an error. People who are not signed in are sent to the sign-in page; a script is told why, and shows it
    where it wants, since what was written on its page must not be lost."""
    told = understood(error, request)
    headers = headers_of(told)
    if request.url.path.startswith("/api/") or "hx-request" in request.headers:
        headers["Vary"] = "Accept-Language, Cookie"
        return Told({"error": renderer.told(request, told.as_json()["error"])}, told.status, headers)
    if isinstance(told, Unauthenticated):
        return to_sign_in(request)
    return renderer.page(request, error_page(told), status=told.status, headers=headers)


def headers_of(error: StudioError) -> dict[str, str]:
    """What RFC 9110 wants said beside the error itself."""
    match error:
        case Unauthenticated():
            return {"WWW-Authenticate": "Bearer"}
        case NotAllowed():
            return {"Allow": ", ".join(error.allowed)}
        case TooMany() | Unavailable():
            return {"Retry-After": str(error.retry_after_seconds)}
        case _:
            return {}


def methods_of(request: Request) -> list[str]:
    """The methods that this address answers to. Each route knows only its own, so all of them are asked."""
    routes = request.app.routes
    return [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def to_sign_in(request: Request) -> Response:
    """A redirect that comes back here after signing in."""
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    target = "/signin" if here == "/" or request.method != "GET" else f"/signin?next={quote(here, safe='/')}"
    return RedirectResponse(target, 303)


def error_page(error: StudioError) -> ErrorPage:
    return ErrorPage(
        number=error.status,
        error=problem_out(error),
        problems=[ProblemOut.model_validate(problem) for problem in error.problems],
        incident=error.incident if isinstance(error, Broken) else "",
    )


def problem_out(error: StudioError) -> ProblemOut:
    return ProblemOut(code=error.code, message=error.message, where=error.where or None, hint=error.hint or None)
