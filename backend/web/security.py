"""The guard in front of every route: plain ASGI, so that it stands in no stream's way.

Whatever is not in `OPEN` needs a person who is signed in, or a token; whatever changes something needs a member, but for
what is `OWN`. Routes for administrators say so themselves (`deps.Admin`).
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.core.audit import asking_address, asking_token
from backend.core.errors import BadRequest, Forbidden, TooLarge, Unauthenticated
from backend.core.models import Role
from backend.core.people import Identity
from backend.core.throttle import plain_address
from backend.web.bodies import announced, ends_the_connection, pieces

HEALTH = "/healthz"
OPEN = frozenset({HEALTH, "/signin", "/setup", "/invitation"})
"""The only routes that answer to anybody, beside the scripts and styles under `OPEN_FOLDER`."""
OPEN_FOLDER = "/static/"

WAYS_IN = re.compile(r"/(settings|api/v1/me)/(password|sessions)(/.*)?|/(settings|api/v1)/tokens(/.*)?", re.DOTALL)
"""One's own sign-ins, password and tokens. Whoever has found a token could lock its owner out there, so tokens write none of
it; nor what administrators do to people, where these are its owner (`people.check_token_spares`)."""

OWN = re.compile(rf"/signout|/settings/language|/api/v1/me|{WAYS_IN.pattern}", re.DOTALL)
"""What viewers may write too: their own sign-ins, password, language and tokens."""

STREAMED = re.compile(r"PUT /api/v1/datasets/[^/]+|POST /api/v1/datasets/probe|PATCH /api/v1/uploads/[^/]+")
"""Whose bodies flow to the disk as they come; all others fit into memory."""

HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::\d{1,5})?")
MAX_BODY_BYTES = 1 << 20
MAX_FORM_FIELDS = 1000
SAFE = ("GET", "HEAD", "OPTIONS")

# No 'strict-dynamic': htmx re-creates the scripts of what it swaps in, and 'strict-dynamic' would trust each of them.
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
    "require-trusted-types-for 'script'; trusted-types htmx"
)


class Doorkeeper(Protocol):
    """What the guard asks of the application."""

    hosts: tuple[str, ...]

    async def identify(self, connection: HTTPConnection) -> Identity | None: ...

    async def refuse(self, request: Request, error: Exception) -> Response: ...


class Guard:
    """Headers, host, origin, identity, role, CSRF token and size of every request; every failure in its one shape."""

    def __init__(self, app: ASGIApp, keeper: Doorkeeper) -> None:
        self.app, self.keeper = app, keeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = Answer(scope, send)
        scope.setdefault("state", {}).update(nonce=answer.nonce, identity=None)
        asking_address.set(client_address(scope))
        asking_token.set(None)
        try:
            receive = await self._admit(scope, receive)
            await self.app(scope, receive, answer.send)
        except Exception as error:
            if answer.has_begun:
                raise  # half an answer cannot be taken back: the server breaks the connection off
            response = await self.keeper.refuse(Request(scope), error)
            await response(scope, receive, answer.send)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """Raises what is wrong with the request, in the order in which a stranger may learn of it."""
        headers, path = Headers(scope=scope), scope["path"]
        check_host(headers.get("host", ""), self.keeper.hosts)
        if scope["method"] not in SAFE:
            check_origin(headers, scope["scheme"])
        identity = None if asks_nobody(path) else await self.keeper.identify(HTTPConnection(scope))
        scope["state"]["identity"] = identity
        asking_token.set(identity.token_name if identity else None)
        if not is_open(path):
            check_identity(identity, scope["method"], path)
        if scope["method"] in SAFE:
            return receive
        streamed = is_streamed(scope["method"], path)
        body = b"" if streamed else await whole_body(Request(scope, receive))
        if identity and identity.via == "session":
            check_csrf(identity, headers, body)
        return receive if streamed else replay(body, receive)


@dataclass
class Answer:
    """The way out: every answer gets the security headers, errors included."""

    scope: Scope
    forward: Send
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    has_begun: bool = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = POLICY.format(nonce=self.nonce)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
            headers.setdefault("Cache-Control", "no-store")
            if ends_the_connection(self.scope):
                headers["Connection"] = "close"
        await self.forward(message)


def client_address(scope: Scope) -> str | None:
    """Who is at the other end; behind a proxy that is trusted, who was at its other end."""
    client = scope.get("client")
    return plain_address(client[0]) if client else None


# ---- the checks -----------------------------------------------------------------------------------------------------


def is_static(path: str) -> bool:
    return path.startswith(OPEN_FOLDER)


def asks_nobody(path: str) -> bool:
    """Whether it is the same for everybody: then nobody is looked up, and it answers while Postgres is away."""
    return is_static(path) or path == HEALTH


def is_streamed(method: str, path: str) -> bool:
    return STREAMED.fullmatch(f"{method} {path}") is not None


def is_open(path: str) -> bool:
    return path in OPEN or is_static(path)


def check_host(host: str, known: Iterable[str]) -> None:
    """Against DNS rebinding: a page of another site that resolves its own name to us still says that name here. An
    address cannot be rebound, so addresses pass."""
    name = host_name(host)
    if not (is_address(name) or name == "localhost" or name in known):
        raise BadRequest(
            f"This studio does not answer to the name “{name[:80]}”.",
            hint="Add the name to STUDIO_HOSTS, or use the address.",
            code="host",
        )


def host_name(host: str) -> str:
    """`[::1]:8321` → `::1`; `Box.lan:80` → `box.lan`; empty where it is no host at all."""
    found = HOST.fullmatch(host)
    return (found["address"] or found["name"]).lower().rstrip(".") if found else ""


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


@cache
def own_names(configured: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names that this machine is known by."""
    machine = socket.gethostname().lower()
    short = machine.split(".")[0]
    return (*(name.lower() for name in configured), machine, short, f"{short}.local")


def check_origin(headers: Headers, scheme: str) -> None:
    """Browsers send Sec-Fetch-Site over HTTPS and to loopback only; over plain HTTP, Origin alone is left. A request
    with neither but with a cookie is refused; without a cookie there is nothing to ride on. What comes over HTTPS was sent
    by no page of plain HTTP, while HTTPS may end in front of us."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        kind, _, host = origin.partition("://")
        crosses = host != headers.get("host") or kind not in ("https", scheme)
    else:
        crosses = site != "same-origin" if site else "cookie" in headers and "x-csrf-token" not in headers
    if crosses or (site and site not in ("same-origin", "none")):
        raise Forbidden("This request came from another site and was refused.", code="cross_site")


def check_identity(identity: Identity | None, method: str, path: str) -> None:
    if identity is None:
        raise Unauthenticated("Sign in first.", hint="Programs send an API token as “Authorization: Bearer …”.")
    if method not in SAFE and not OWN.fullmatch(path) and not identity.may(Role.MEMBER):
        raise Forbidden("Viewers can look at everything and change nothing.", hint="Ask an administrator for a role.")
    gives_itself_up = method == "DELETE" and path == f"/api/v1/tokens/{identity.token_id}"
    if method not in SAFE and identity.via == "token" and WAYS_IN.fullmatch(path) and not gives_itself_up:
        raise Forbidden(
            "A token changes no password, ends no sign-in, and makes or revokes no other token.",
            hint="Sign in, or use `studio token` on the host.",
        )


def check_csrf(identity: Identity, headers: Headers, body: bytes) -> None:
    """A cookie comes by itself, so who writes by cookie must know the session's token: scripts send it as a header,
    forms as a field."""
    token = headers.get("x-csrf-token") or dict(form_fields(headers, body)).get("csrf_token", "")
    if not secrets.compare_digest(token.encode(), identity.csrf_token.encode()):
        raise Forbidden(
            "This form is too old or came from elsewhere.", hint="Reload the page and try again.", code="csrf"
        )


def form_fields(headers: Headers, body: bytes) -> list[tuple[str, str]]:
    """The fields of an urlencoded form, in order. Raises `TooLarge` for absurdly many."""
    if headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return []
    try:
        return pairs_in(body.decode())
    except UnicodeDecodeError:
        raise BadRequest("The form is not UTF-8.") from None


def pairs_in(text: str) -> list[tuple[str, str]]:
    """The names and values of a form as it is sent. Raises `TooLarge`."""
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        raise TooLarge(f"A form has at most {MAX_FORM_FIELDS} fields.") from None


async def whole_body(request: Request) -> bytes:
    """The body, at most `MAX_BODY_BYTES`. Raises `TooLarge` before more of it is read, and `ClientDisconnect` where it does not
    come whole: half of a form is another form."""
    body, too_large = bytearray(), announced(request.headers) > MAX_BODY_BYTES
    if not too_large:
        async for piece in pieces(request):
            body += piece
            if too_large := len(body) > MAX_BODY_BYTES:
                break
    if too_large:
        hint = "Data goes to /api/v1/datasets."
        raise TooLarge(f"A request body has at most {MAX_BODY_BYTES >> 20} MiB.", hint=hint)
    return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, for the route; then whatever comes, which is the end of the connection."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def safe_next(target: str) -> str:
    """Where to go after signing in: a path of ours, or the home page. `//evil`, `/\\evil` and schemes lead elsewhere."""
    is_ours = target.startswith("/") and not target.startswith(("//", "/\\"))
    is_plain = not any(ord(character) < 32 or character == "\\" for character in target)
    return target if is_ours and is_plain and not urlsplit(target).netloc else "/"
