"""Who did what: every write leaves a row that tells it, in words, for good."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import DBAPIError

from backend.core import people
from backend.core.models import Audit, Role
from backend.core.settings import Settings
from backend.web.app import create_app
from backend.web.security import WAYS_IN
from tests.security.asking import asked
from tests.security.test_roles import RULES, Rule
from tests.security.world import PASSWORD, Who, World
from tests.support.routes import WRITES, declared_routes

ROOT = Path(__file__).resolve().parents[2]

WRITTEN: dict[str, tuple[str, ...]] = {
    "sign_in": ("POST /signin",),
    "sign_out": ("POST /signout",),
    "person.create": ("POST /setup", "POST /api/v1/people", "POST /settings/people"),
    "person.accept": ("POST /invitation",),
    "person.role": ("PATCH /api/v1/people/{person}", "POST /settings/people/{person}"),
    "person.invite": ("POST /api/v1/people/{person}/invitation",),
    "person.remove": ("DELETE /api/v1/people/{person}",),
    "person.password": ("PUT /api/v1/me/password", "POST /settings/password"),
    "person.language": ("PATCH /api/v1/me", "POST /settings/language"),
    "session.end": ("DELETE /api/v1/me/sessions/{name}", "POST /settings/sessions/{name}/end"),
    "session.end_others": ("DELETE /api/v1/me/sessions", "POST /settings/sessions/end"),
    "session.end_all": ("DELETE /api/v1/people/{person}/sessions",),
    "token.create": ("POST /api/v1/tokens", "POST /settings/tokens"),
    "token.revoke": ("DELETE /api/v1/tokens/{token}", "POST /settings/tokens/{token}/revoke"),
    "worker.drain": ("PATCH /api/v1/workers/{worker}", "POST /settings/workers/{worker}"),
    "storage.clean_up": ("POST /api/v1/storage/clean-up", "POST /settings/storage/clean-up"),
    "dataset.upload": (
        "PUT /api/v1/datasets/{name}",
        "POST /datasets/example",
        "PATCH /api/v1/uploads/{upload}",
    ),
    "dataset.delete": ("DELETE /api/v1/datasets/{name}", "POST /datasets/{name}/delete"),
    "dataset.restore": ("POST /api/v1/datasets/{name}/restore", "POST /datasets/{name}/restore"),
    "dataset.mend": ("POST /api/v1/datasets/{name}/mend", "POST /datasets/{name}/mend"),
    "upload.begin": ("POST /api/v1/uploads",),
    "upload.discard": ("DELETE /api/v1/uploads/{upload}",),
    "model.download": ("POST /api/v1/models/download", "POST /models/download"),
    "operation.cancel": ("POST /api/v1/operations/{operation}/cancel", "POST /models/downloads/{operation}/cancel"),
    "run.launch": (
        "POST /api/v1/runs",
        "POST /runs",
        "POST /api/v1/runs/{run}/clone",
        "POST /api/v1/recipes/{recipe}/launch",
    ),
    "run.note": ("PATCH /api/v1/runs/{run}", "POST /runs/{run}/note"),
    "run.pause": ("POST /api/v1/runs/{run}/pause", "POST /runs/several"),
    "run.resume": ("POST /api/v1/runs/{run}/resume",),
    "run.stop": ("POST /api/v1/runs/{run}/stop",),
    "run.discard": ("POST /runs/{run}/act",),
    "run.restore": ("POST /api/v1/runs/{run}/restore",),
    "run.start_over": ("POST /api/v1/runs/{run}/start-over",),
    "run.amend": ("POST /api/v1/runs/{run}/amendments", "POST /runs/{run}/amend"),
    "recipe.save": ("POST /api/v1/recipes", "POST /runs/recipe"),
    "recipe.delete": ("DELETE /api/v1/recipes/{recipe}", "POST /recipes/{recipe}/delete"),
}
"""What each route is written down as. A new one stands here, or the first test fails."""

CHANGES_NOTHING = {
    "POST /api/v1/datasets/probe": "looks at the beginning of a file and keeps none of it",
    "POST /api/v1/preflight": "tells what a launch would do",
    "POST /runs/preflight": "draws what a launch would do",
    "POST /runs/new": "draws the form in another view",
}
AT_THE_DOOR = ("POST /signin", "POST /setup", "POST /invitation")
NO_TOKENS = (
    "POST /signout",
    *(route for rule in (Rule.SELF, Rule.PRIVATE, Rule.TOKEN) for route in RULES[rule] if WAYS_IN.search(route)),
)
"""What needs somebody who has signed in."""
NAMELESS = ("storage.clean_up",)
"""What concerns the studio as a whole."""


def test_every_write_is_written_down_or_changes_nothing(here: Settings) -> None:
    declared = {f"{method} {path}" for method, path in declared_routes(create_app(here)) if method in WRITES}
    known = [*(route for routes in WRITTEN.values() for route in routes), *CHANGES_NOTHING]
    assert sorted(known) == sorted(declared)


def test_every_write_tells_who_did_what_to_what_and_from_where(world: World) -> None:
    wrong = [
        f"{route}: {row}"
        for action, routes in WRITTEN.items()
        for route in routes
        if route not in AT_THE_DOOR
        for row in [done(world, route, action)]
        if row is not None
    ]
    assert wrong == []


def test_every_write_of_a_program_tells_by_which_token(world: World) -> None:
    wrong = [
        f"{route}: {row}"
        for action, routes in WRITTEN.items()
        for route in routes
        if route not in AT_THE_DOOR and route not in NO_TOKENS
        for row in [done(world, route, action, via="a program")]
        if row is not None
    ]
    assert wrong == []


def done(world: World, route: str, action: str, via: str | None = None) -> str | None:
    """What is wrong with what was written down of that route, asked by a browser or by a token of that name."""
    is_admins = route in RULES[Rule.ADMIN]
    person: Who = "admin" if is_admins else "owner"
    program: Who = "admin's token" if is_admins else "owner's token"
    with world.client(program if via else person) as client:
        method, path, words = asked(route, world.things())
        seen_before = rows(world)
        answer = client.request(method, path, **words)
        written = [row for row in rows(world)[len(seen_before) :] if row.action == action]
    if answer.status_code >= 400:
        return f"{answer.status_code} {answer.text[:200]}"
    if len(written) != 1:
        return f"written {len(written)} times"
    [row] = written
    told = (row.person, row.address, bool(row.subject), row.data.get("via"))
    return None if told == (f"the {person}", "127.0.0.1", action not in NAMELESS, via) else f"{told}"


def test_the_audit_shows_by_which_token_something_was_done(world: World) -> None:
    run = world.things().run
    with world.client("owner's token") as program:
        assert program.patch(f"/api/v1/runs/{run}", json={"note": "A program was here."}).is_success
    with world.client("admin") as admin:
        page = admin.get("/settings/audit", params={"action": "run.note"}).text
        assert f"<b>{run}</b>" in page
        assert "by the token a program" in page
        table = admin.get("/api/v1/audit/download", params={"action": "run.note"}).text
        assert '""via"": ""a program""' in next(line for line in table.splitlines() if run in line)


def rows(world: World) -> list[Audit]:
    with world.web.session() as session:
        return list(session.scalars(select(Audit).order_by(Audit.at)))


def test_what_happens_at_the_door_is_written_down(world: World) -> None:
    with world.client("admin") as client:
        invited = client.post("/api/v1/people", json={"name": "ines", "role": "viewer"}).json()["invitation"]["link"]
    with httpx.Client(base_url=world.web.address, headers={"origin": world.web.address}, trust_env=False) as ines:
        form = {"token": invited.partition("=")[2], "password": PASSWORD, "again": PASSWORD}
        assert ines.post("/invitation", data=form).status_code == 303
        ines.cookies.clear()
        assert ines.post("/signin", data={"name": "ines", "password": PASSWORD}).status_code == 303
    own = [row for row in rows(world) if row.person == "ines"]
    assert [row.action for row in own] == ["person.accept", "sign_in", "sign_in"]
    assert {row.address for row in own} == {"127.0.0.1"}
    first = next(row for row in rows(world) if (row.action, row.subject) == ("person.create", "the admin"))
    assert (first.person, first.address) == ("the admin", "127.0.0.1")


def test_what_was_done_outlives_the_account_and_cannot_be_changed(world: World) -> None:
    with world.web.session() as session:
        mole = people.create(session, "mole", people.NO_PASSWORD, Role.MEMBER, by=None)
        people.audit(session, mole.id, "recipe.delete", "the one that mattered")
        session.commit()
        session.delete(mole)
        session.commit()
        row = session.scalars(select(Audit).where(Audit.subject == "the one that mattered")).one()
        assert (row.user_id, row.person) == (None, "mole")
        for statement in (
            update(Audit).where(Audit.id == row.id).values(person="somebody else"),
            update(Audit).where(Audit.id == row.id).values(user_id=None, subject="nothing"),
            delete(Audit).where(Audit.id == row.id),
            text("TRUNCATE audit"),
        ):
            with pytest.raises(DBAPIError, match="append-only"):
                session.execute(statement)
            session.rollback()


def actions_in_code() -> list[str]:
    """Every action that some line of ours writes down: those of routes, and those that a command, a failure or one value
    of a form leads to."""
    trees = (ast.parse(path.read_text()) for path in (ROOT / "backend").rglob("*.py"))
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    return sorted({action for call in calls for action in written_by(call)})


def written_by(call: ast.Call) -> list[str]:
    """The actions that `audit(session, who, action, …)` may be told, or a `partial` of it."""
    told: list[ast.expr] = call.args[2:3] if ast.unparse(call.func) in ("audit", "people.audit") else []
    if "people.audit" in map(ast.unparse, call.args):
        told = [each.value for each in call.keywords if each.arg == "action"]
    found = (node.value for each in told for node in ast.walk(each) if isinstance(node, ast.Constant))
    return [action for action in found if isinstance(action, str)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_action_is_told_in_words(world: World, language: str) -> None:
    actions = actions_in_code()
    assert set(WRITTEN) < set(actions)
    with world.web.session() as session:
        for action in actions:
            people.audit(session, None, action, "told in words")
        session.commit()
    with world.client("admin") as client:
        for action in actions:
            page = client.get("/settings/audit", params={"action": action}, headers={"accept-language": language}).text
            words = re.search(rf'data-action="{action}".*?class="what">([^<]*)<', page)
            assert words, action
            assert words[1].strip() not in ("", action), action
            assert (language == "zh") == bool(re.search("[\u4e00-\u9fff]", words[1])), (action, words[1])
