"""Who may ask for what: each kind of person at every route, with real things of somebody else's."""

from __future__ import annotations

from enum import Enum

from backend.core.settings import Settings
from backend.web.app import create_app
from tests.security.asking import status_of
from tests.security.world import ACTORS, TOKENS, Things, Who, World
from tests.support.routes import declared_routes


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
REFUSED: dict[Rule, dict[Who, str]] = {
    Rule.OPEN: {},
    Rule.LOOK: {},
    Rule.SELF: {},
    Rule.MAKE: {"viewer": FORBIDDEN, "admin's viewer token": FORBIDDEN},
    Rule.CHANGE: {"viewer": FORBIDDEN, "member": FORBIDDEN, "admin's viewer token": FORBIDDEN},
    Rule.PRIVATE: {"viewer": ABSENT, "member": ABSENT, "admin": ABSENT, "admin's viewer token": ABSENT},
    Rule.TOKEN: {"viewer": ABSENT, "member": ABSENT},
    Rule.ADMIN: {who: FORBIDDEN for who in ACTORS if who != "admin"},
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
