"""What a person may not do to the runs and data sets of others is not offered to them either."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.models import Role
from tests.web.conftest import account, client_of, queued_run

ACTS = ("/runs/first/act", "/runs/first/amend", "/runs/first/note")


@pytest.mark.parametrize(("role", "owns", "is_offered"), [
    (Role.MEMBER, True, True), (Role.MEMBER, False, False), (Role.ADMIN, False, True), (Role.VIEWER, False, False),
])  # fmt: skip
async def test_a_run_is_acted_on_by_its_owner_and_by_administrators(
    app: FastAPI, session: Session, role: Role, owns: bool, is_offered: bool
) -> None:
    reader = account(session, role, "reader")
    queued_run(session, owner=reader if owns else account(session, Role.MEMBER, "owner"))
    async with client_of(app, reader.headers) as client:
        page = (await client.get("/runs/first")).text
    assert [act in page for act in ACTS] == [is_offered] * len(ACTS)
    assert ('href="/runs/new?clone=first"' in page) == (role != Role.VIEWER), "a clone is a run of one's own"


@pytest.mark.parametrize(("role", "may"), [(Role.MEMBER, False), (Role.ADMIN, True)])
async def test_what_a_removed_account_left_behind_is_the_administrators(
    app: FastAPI, session: Session, role: Role, may: bool
) -> None:
    owner, admin, reader = account(session, Role.MEMBER), account(session, Role.ADMIN), account(session, role, "reader")
    run = queued_run(session, owner=owner)
    people.remove(session, people.find(session, owner.identity.name), by=admin.identity)
    session.commit()
    session.refresh(run)
    assert run.owner_id is None
    async with client_of(app, reader.headers) as client:
        page = (await client.get("/runs/first")).text
        stopped = await client.post("/api/v1/runs/first/stop", json={"keep": False})
    assert [act in page for act in ACTS] == [may] * len(ACTS)
    assert stopped.status_code == (200 if may else 403)
