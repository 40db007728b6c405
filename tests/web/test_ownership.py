"""What a person may not do to the runs and data sets of others is not offered to them either."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

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
