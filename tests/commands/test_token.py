"""`studio token`, on a real database."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from backend.commands.token import app
from backend.core import db, people
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
