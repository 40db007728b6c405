"""Home, the list of runs, search and recipes, as the server draws them."""

from __future__ import annotations

import httpx
from sqlalchemy.orm import Session

from tests.web.conftest import queued_run


async def test_home_teaches_the_five_steps_until_there_is_a_run(admin: httpx.AsyncClient, session: Session) -> None:
    assert "Teach a model from your own rows" in (await admin.get("/")).text
    queued_run(session)
    page = (await admin.get("/")).text
    assert "One run waits" in page
    assert "Teach a model" not in page
