"""Who may ask for what: each kind of person at every route, with real things of somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum

import httpx
import pytest

from backend.core import people
from backend.core.models import Role
from backend.core.settings import Settings
from backend.web.app import create_app
from tests.security.asking import status_of
from tests.security.world import ACTORS, PASSWORD, TOKENS, Things, Who, World
from tests.support.routes import declared_routes
from tests.support.webs import PLAIN


class Rule(Enum):
    """Whom a route answers to. `anonymous` is told to sign in at all but the open ones."""

    OPEN = "everybody, signed in or not"
    LOOK = "whoever is signed in: runs and data are there for all to see"
    SELF = "whoever is signed in, of what is their own alone"
    MAKE = "members: what they make is their own"
    CHANGE = "its owner, and administrators; other members are refused"
    PRIVATE = "its owner alone; to everybody else it is not there"
    TOKEN = "its owner and administrators; to everybody else it is not there"
    ADMIN = "administrators"


RULES: dict[Rule, tuple[str, ...]] = {
    Rule.OPEN: (
        "GET /healthz", "GET /signin", "POST /signin", "GET /setup", "POST /setup", "GET /invitation", "POST /invitation",
    ),
    Rule.LOOK: (
        "GET /", "GET /help", "GET /search", "GET /compare", "GET /models", "GET /api/docs", "GET /api/v1/openapi.json",
        "GET /datasets", "GET /datasets/{name}", "GET /datasets/{name}/preview", "GET /datasets/{name}/measured",
        "GET /datasets/{name}/verdict", "GET /datasets/{name}/quality", "GET /datasets/{name}/compare",
        "GET /runs", "GET /runs/new", "GET /runs/new/row", "GET /runs/{run}", "GET /runs/{run}/status",
        "GET /runs/{run}/artifacts", "GET /runs/{run}/history", "GET /runs/{run}/log", "GET /runs/{run}/memory",
        "GET /runs/{run}/note", "GET /recipes", "GET /recipes/{recipe}",
        "GET /settings/workers", "GET /settings/storage",
        "GET /api/v1/datasets", "GET /api/v1/datasets/{name}", "GET /api/v1/datasets/{name}/rows",
        "GET /api/v1/datasets/{name}/preview", "GET /api/v1/datasets/{name}/lengths",
        "GET /api/v1/datasets/{name}/findings", "GET /api/v1/datasets/{name}/download", "OPTIONS /api/v1/uploads",
        "GET /api/v1/models", "GET /api/v1/models/inspect", "GET /api/v1/models/fit", "GET /api/v1/models/search",
        "GET /api/v1/runs", "GET /api/v1/runs/{run}", "GET /api/v1/runs/{run}/amendments",
        "GET /api/v1/runs/{run}/metrics", "GET /api/v1/runs/{run}/samples", "GET /api/v1/runs/{run}/checkpoints",
        "GET /api/v1/runs/{run}/attempts", "GET /api/v1/runs/{run}/artifacts", "GET /api/v1/runs/{run}/recipe",
        "GET /api/v1/runs/{run}/log", "GET /api/v1/runs/{run}/events", "GET /api/v1/events", "GET /api/v1/compare",
        "GET /api/v1/artifacts/{artifact}", "GET /api/v1/artifacts/{artifact}/download",
        "HEAD /api/v1/artifacts/{artifact}/download", "GET /api/v1/artifacts/{artifact}/files/{file:path}",
        "HEAD /api/v1/artifacts/{artifact}/files/{file:path}", "GET /api/v1/recipes", "GET /api/v1/recipes/{recipe}",
        "GET /api/v1/recipes/{recipe}/versions", "GET /api/v1/search", "GET /api/v1/operations",
        "GET /api/v1/operations/{operation}", "GET /api/v1/workers", "GET /api/v1/storage",
    ),
    Rule.SELF: (
        "POST /signout", "GET /settings", "GET /settings/you", "GET /settings/tokens", "GET /settings/sessions",
        "POST /settings/password", "POST /settings/language", "POST /settings/tokens", "POST /settings/sessions/end",
        "GET /api/v1/me", "PATCH /api/v1/me", "PUT /api/v1/me/password", "GET /api/v1/me/sessions",
        "DELETE /api/v1/me/sessions", "GET /api/v1/tokens", "POST /api/v1/tokens", "GET /api/v1/uploads",
    ),
    Rule.MAKE: (
        "POST /api/v1/datasets/probe", "POST /api/v1/models/download", "POST /models/download",
        "POST /api/v1/preflight", "POST /runs/preflight", "POST /runs/new", "POST /api/v1/runs", "POST /runs",
        "POST /api/v1/runs/{run}/clone", "POST /api/v1/recipes/{recipe}/launch",
    ),
    Rule.CHANGE: (
        "PUT /api/v1/datasets/{name}", "DELETE /api/v1/datasets/{name}", "POST /api/v1/datasets/{name}/restore",
        "POST /api/v1/datasets/{name}/mend", "POST /datasets/{name}/delete", "POST /datasets/{name}/restore",
        "POST /datasets/{name}/mend", "POST /datasets/example", "POST /api/v1/uploads",
        "PATCH /api/v1/runs/{run}", "POST /api/v1/runs/{run}/stop", "POST /api/v1/runs/{run}/pause",
        "POST /api/v1/runs/{run}/resume", "POST /api/v1/runs/{run}/restore", "POST /api/v1/runs/{run}/start-over",
        "POST /api/v1/runs/{run}/amendments", "POST /runs/several", "POST /runs/{run}/note", "POST /runs/{run}/act",
        "POST /runs/{run}/amend", "POST /api/v1/recipes", "POST /runs/recipe", "DELETE /api/v1/recipes/{recipe}",
        "POST /recipes/{recipe}/delete", "POST /api/v1/operations/{operation}/cancel",
        "POST /models/downloads/{operation}/cancel",
    ),
    Rule.PRIVATE: (
        "HEAD /api/v1/uploads/{upload}", "PATCH /api/v1/uploads/{upload}", "DELETE /api/v1/uploads/{upload}",
        "DELETE /api/v1/me/sessions/{name}", "POST /settings/sessions/{name}/end",
    ),
    Rule.TOKEN: ("DELETE /api/v1/tokens/{token}", "POST /settings/tokens/{token}/revoke"),
    Rule.ADMIN: (
        "GET /people", "GET /settings/people", "POST /settings/people", "POST /settings/people/{person}",
        "POST /settings/workers/{worker}", "POST /settings/storage/clean-up", "GET /settings/audit",
        "PATCH /api/v1/workers/{worker}", "POST /api/v1/storage/clean-up", "GET /api/v1/audit",
        "GET /api/v1/audit/download", "GET /api/v1/people", "POST /api/v1/people", "PATCH /api/v1/people/{person}",
        "POST /api/v1/people/{person}/invitation", "DELETE /api/v1/people/{person}/sessions",
        "DELETE /api/v1/people/{person}",
    ),
}  # fmt: skip
"""A new route is written down here, or the first test fails."""

SIGN_IN, FORBIDDEN, ABSENT, DONE = "told to sign in", "forbidden", "not there", "done"
REFUSED: dict[Rule, Mapping[Who, str]] = {
    Rule.OPEN: {},
    Rule.LOOK: {},
    Rule.SELF: {},
    Rule.MAKE: {"viewer": FORBIDDEN, "admin's viewer token": FORBIDDEN},
    Rule.CHANGE: {"viewer": FORBIDDEN, "member": FORBIDDEN, "admin's viewer token": FORBIDDEN},
    Rule.PRIVATE: dict.fromkeys(("viewer", "member", "admin", "admin's token", "admin's viewer token"), ABSENT),
    Rule.TOKEN: {"viewer": ABSENT, "member": ABSENT},
    Rule.ADMIN: {who: FORBIDDEN for who in ACTORS if who not in ("admin", "admin's token")},
}
LOOKS = ("GET", "HEAD", "OPTIONS")
TOKENS_WRITE = ("POST /signout", "POST /settings/language", "PATCH /api/v1/me")
"""Of what is their owner's own; of what is private, uploads."""
VIEWERS_WRITE_NO_UPLOADS = ("PATCH /api/v1/uploads/{upload}", "DELETE /api/v1/uploads/{upload}")


def expected(rule: Rule, route: str, who: Who) -> str:
    if who == "anonymous":
        return DONE if rule is Rule.OPEN else SIGN_IN
    if route == "POST /signout":
        return SIGN_IN  # that is where signing out leads
    if who in ("viewer", "admin's viewer token") and route in VIEWERS_WRITE_NO_UPLOADS:
        return FORBIDDEN
    is_way_in = rule in (Rule.SELF, Rule.PRIVATE, Rule.TOKEN) and route not in TOKENS_WRITE and "upload" not in route
    if who in TOKENS and is_way_in and not route.startswith(LOOKS):
        return FORBIDDEN
    return REFUSED[rule].get(who, DONE)


def seen(status: int, said: str) -> str:
    """What an answer means. Whatever else an allowed request meets, it was let in."""
    if status == 401 or said.startswith("/signin?") or said == "/signin":
        return SIGN_IN
    known = {403: FORBIDDEN, 404: ABSENT}
    return known.get(status, DONE if status < 400 or status == 409 else f"{status}: {said}")


def test_every_route_has_a_rule_and_no_rule_is_left_over(here: Settings) -> None:
    declared = {f"{method} {path}" for method, path in declared_routes(create_app(here))}
    ruled = [route for routes in RULES.values() for route in routes]
    assert sorted(ruled) == sorted(declared)


def test_each_kind_of_person_gets_what_the_rules_say_at_every_route(world: World) -> None:
    shared = world.things()
    wrong = [
        f"{route} as {who}: {found} instead of {wanted}"
        for rule, routes in RULES.items()
        if rule is not Rule.OPEN
        for route in routes
        for who in ACTORS
        for wanted in [expected(rule, route, who)]
        for found in [outcome(world, route, who, shared if route.startswith(LOOKS) else world.things())]
        if found != wanted
    ]
    assert wrong == []


def outcome(world: World, route: str, who: Who, things: Things) -> str:
    with world.client(who) as client:
        return seen(*status_of(client, route, things))


LOCKS_OUT: dict[str, tuple[str, str, Mapping[str, object]]] = {
    "a password": ("PATCH", "/api/v1/people/{name}", {"json": {"password": PASSWORD}}),
    "a lower role": ("PATCH", "/api/v1/people/{name}", {"json": {"role": "viewer"}}),
    "a suspension": ("PATCH", "/api/v1/people/{name}", {"json": {"disabled": True}}),
    "a link": ("POST", "/api/v1/people/{name}/invitation", {}),
    "a sign-out": ("DELETE", "/api/v1/people/{name}/sessions", {}),
    "a removal": ("DELETE", "/api/v1/people/{name}", {}),
    "a password on the page": ("POST", "/settings/people/{name}", {"data": {"password": PASSWORD}}),
    "a lower role on the page": ("POST", "/settings/people/{name}", {"data": {"role": "viewer"}}),
    **{
        f"{act} on the page": ("POST", "/settings/people/{name}", {"data": {"act": act}})
        for act in ("disable", "invite", "end_sessions", "remove")
    },
}
"""What an administrator may do to anybody."""
LETS_IN = {
    "a new administrator": ("POST", "/api/v1/people", {"json": {"name": "puppet", "role": "admin"}}),
    "a new administrator on the page": ("POST", "/settings/people", {"data": {"name": "puppet", "role": "admin"}}),
    "a raised role": ("PATCH", "/api/v1/people/the owner", {"json": {"role": "admin"}}),
    "a raised role on the page": ("POST", "/settings/people/the owner", {"data": {"role": "admin"}}),
    "a suspended one": ("PATCH", "/api/v1/people/{name}", {"json": {"disabled": False}}),
    "a suspended one on the page": ("POST", "/settings/people/{name}", {"data": {"act": "enable"}}),
    **{kind: LOCKS_OUT[kind] for kind in ("a password", "a link", "a password on the page", "invite on the page")},
}
"""By which whoever holds a token would become an administrator who signs in, and lock its owner out as one."""


@pytest.mark.parametrize("kind", LOCKS_OUT)
def test_an_administrators_token_does_nothing_to_its_owner(world: World, kind: str) -> None:
    method, path, words = LOCKS_OUT[kind]
    with world.client("admin") as admin, world.client("admin's token") as program:
        refused = program.request(method, path.format(name="the admin"), **words)  # type: ignore[arg-type]
        assert (refused.status_code, "does not change its owner" in refused.text) == (403, True), refused.text
        assert admin.get("/api/v1/me").json()["role"] == "admin"
    with world.client("anonymous") as owner:
        assert owner.post("/signin", data={"name": "the admin", "password": PASSWORD}).status_code == 303


@pytest.mark.parametrize("kind", LETS_IN)
def test_an_administrators_token_lets_in_no_other_administrator(world: World, kind: str) -> None:
    method, path, words = LETS_IN[kind]
    password_hash = world.password_hash
    with world.web.session() as session:
        other = people.by_name(session, "the other") or people.create(
            session, "the other", password_hash, Role.ADMIN, by=None
        )
        other.disabled_at = datetime.now(UTC) if "suspended" in kind else None
        session.commit()
    with world.client("admin's token") as program:
        refused = program.request(method, path.format(name=other.name), **words)  # type: ignore[arg-type]
    assert (refused.status_code, "makes no administrators" in refused.text) == (403, True), refused.text
    with world.web.session() as session:
        found = people.by_name(session, "the owner")
        assert found
        assert found.role == Role.MEMBER
        assert people.by_name(session, "puppet") is None


def test_a_token_of_the_machine_gives_an_administrator_a_password(world: World) -> None:
    """It was made by whoever has a shell there, for an administrator who has lost theirs."""
    with world.web.session() as session:
        made = people.create_token(session, people.this_machine(session), "rescue", role=Role.ADMIN, days=1, by=None)
        people.create(session, "the lost", people.NO_PASSWORD, Role.ADMIN, by=None)
        session.commit()
    headers = {"authorization": f"Bearer {made.secret}"}
    with httpx.Client(base_url=world.web.address, headers=headers, timeout=60, trust_env=False, verify=PLAIN) as rescue:
        assert rescue.patch("/api/v1/people/the lost", json={"password": PASSWORD}).status_code == 200
        assert rescue.post("/api/v1/people/the lost/invitation").status_code == 201
    with world.client("anonymous") as owner:
        assert owner.post("/signin", data={"name": "the lost", "password": PASSWORD}).status_code == 303
