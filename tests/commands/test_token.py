"""`studio token`, on a real database."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from backend.commands.token import app
from backend.core import db, people
from backend.core.models import Audit, Role
from backend.core.settings import settings


@pytest.fixture(autouse=True)
def _studio(studio_home: object, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 -- set up
    monkeypatch.setenv("DATABASE_URL", database_url)
    settings.cache_clear()


def test_a_token_is_made_listed_used_and_revoked(database_url: str) -> None:
    runner = CliRunner()
    made = runner.invoke(app, ["create", "ci", "--role", "viewer", "--days", "7"])
    secret = made.stdout.strip()
    assert (made.exit_code, secret[:4], len(secret)) == (0, "fts_", 47)
    listed = runner.invoke(app, ["list"]).stdout
    assert secret not in listed
    assert secret[:8] in listed
    engine = db.engine(database_url, pool_size=1)
    with Session(engine) as session:
        identity = people.find_bearer(session, secret)
        assert identity
        assert identity.role == "viewer"
        session.commit()
        assert runner.invoke(app, ["revoke", listed.split()[0]]).exit_code == 0
        assert people.find_bearer(session, secret) is None
    engine.dispose()


def test_who_made_and_revoked_a_token_is_this_machine_whoevers_it_is(database_url: str) -> None:
    runner = CliRunner()
    with db.engine_once(database_url) as engine, Session(engine) as session:
        people.create(session, "ada", "no password", Role.MEMBER, by=None)
        session.commit()
        for owner in ([], ["--user", "ada"]):
            assert runner.invoke(app, ["create", "ci", *owner]).exit_code == 0
            newest = runner.invoke(app, ["list"]).stdout.split()[0]
            assert runner.invoke(app, ["revoke", newest]).exit_code == 0
        rows = session.scalars(select(Audit).where(Audit.action.startswith("token.")).order_by(Audit.id))
        assert [(row.person, row.action, row.subject) for row in rows] == [
            ("this machine", "token.create", "this machine: ci"),
            ("this machine", "token.revoke", "this machine: ci"),
            ("this machine", "token.create", "ada: ci"),
            ("this machine", "token.revoke", "ada: ci"),
        ]
