"""Services that are away, and requests that stand still themselves: who is told what, and who holds what meanwhile."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.orm import Session

from backend.core import db
from backend.core.errors import Unavailable
from backend.core.models import Role
from backend.core.settings import Settings
from backend.web.app import create_app
from backend.web.pulse import PATIENCE_LOOKS, Pulse, Vital
from backend.web.studio import Studio
from tests.web.conftest import account, client_of

STATE = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")


async def silent() -> None:
    await asyncio.sleep(3600)


async def refusing() -> None:
    raise ConnectionRefusedError


async def fine() -> None:
    """Answers."""


def pulse_of(database: Vital) -> Pulse:
    return Pulse(database, Vital("queue", fine), lambda: None)


async def looked(vital: Vital, times: int) -> None:
    for _ in range(times):
        vital.look()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_who_refuses_is_away_at_once_and_who_is_silent_after_several_looks() -> None:
    vital = Vital("database", refusing)
    await looked(vital, 2)
    assert vital.is_away
    vital = Vital("database", silent)
    await looked(vital, PATIENCE_LOOKS)
    assert not vital.is_away
    await looked(vital, 1)
    assert vital.is_away


async def test_a_loop_that_stood_still_itself_has_not_watched() -> None:
    vital = Vital("database", silent)
    vital.look()
    time.sleep(1.5)
    await looked(vital, 1)
    assert not vital.is_away


async def test_whoever_ends_hears_out_what_was_asked_and_waits_for_no_service_that_is_silent() -> None:
    heard: list[str] = []

    async def slow() -> None:
        await asyncio.sleep(0.2)
        heard.append("an answer")

    pulse = Pulse(Vital("database", slow), Vital("queue", silent), lambda: None)
    await pulse.settle()
    pulse.database.look()
    pulse.queue.look()
    await asyncio.wait_for(pulse.settle(), 10)
    assert heard == ["an answer"]


async def test_a_request_in_flight_is_answered_when_its_service_falls_silent_and_the_next_one_at_once() -> None:
    vital = Vital("database", silent)
    pulse = pulse_of(vital)
    asked = asyncio.ensure_future(pulse.answered(asyncio.sleep(3600)))
    await looked(vital, PATIENCE_LOOKS + 2)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(asked, 5)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await pulse.answered(asyncio.sleep(3600))
    assert time.monotonic() - began < 1


async def test_what_was_asked_is_told_with_its_own_error() -> None:
    pulse = pulse_of(Vital("database", fine))
    assert await pulse.answered(asyncio.sleep(0, "an answer")) == "an answer"
    with pytest.raises(ConnectionRefusedError):
        await pulse.answered(refusing())


async def test_a_reader_that_waits_for_its_turn_holds_no_transaction(app: FastAPI, session: Session) -> None:
    studio: Studio = app.state.studio

    def work(own: Session) -> str:
        pid = own.execute(text("SELECT pg_backend_pid()")).scalar_one()
        found = str(session.execute(STATE, {"pid": pid}).scalar_one())
        session.rollback()  # a second look in one transaction would see the first one's
        return found

    assert await studio.read(work) == "idle"
    assert await studio.write(work) == "idle in transaction"


async def test_a_writer_that_stood_still_is_told_to_try_again(
    here: Settings, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "FROZEN_SECONDS", 1)
    app = create_app(here)

    def stands_still(own: Session) -> None:
        own.execute(text("SELECT 1"))
        time.sleep(2.5)
        own.execute(text("SELECT 1"))

    async def route() -> None:
        await app.state.studio.write(stands_still)

    app.add_api_route("/api/v1/still", route, methods=["POST"])
    async with app.router.lifespan_context(app), client_of(app, account(session, Role.ADMIN).headers) as client:
        answer = await client.post("/api/v1/still")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"]["message"] == "The studio has too much to do now."
        assert (await client.get("/api/v1/me")).status_code == 200


async def test_the_health_check_asks_nobody_who_they_are(app: FastAPI, anonymous: httpx.AsyncClient) -> None:
    studio: Studio = app.state.studio
    assert (await anonymous.get("/healthz")).json() == {"status": "ok"}
    studio.pulse.database.has_failed = True
    told = await anonymous.get("/healthz", headers={"cookie": "studio=somebody"})
    assert (told.status_code, told.json()) == (200, {"status": "degraded", "away": ["database"]})
    assert (await anonymous.get("/healthz?all=1")).status_code == 503
