"""A process that stands still in the midst of a transaction does not hold a run for ever."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import text

from backend.core import db, runs
from backend.core.models import Run
from tests.core.conftest import Sessions

LIMITS = runs.Limits()
SHOW = text("SHOW idle_in_transaction_session_timeout")
OF_SESSION = text("SELECT count(*) FROM pg_settings WHERE name LIKE 'tcp_keepalives%' AND source = 'session'")


async def test_every_connection_lets_go_of_its_locks_when_its_process_stands_still(database_url: str) -> None:
    engine, web = db.engine(database_url), db.async_engine(database_url)
    with engine.connect() as connection:
        assert connection.scalar(SHOW) == f"{db.FROZEN_SECONDS}s"
        assert connection.scalar(OF_SESSION) == len(db.KEEPALIVES), "over a Unix socket their values are nothing"
    async with web.connect() as other:
        assert await other.scalar(SHOW) == f"{db.FROZEN_SECONDS}s"
    engine.dispose()
    await web.dispose()


def test_a_run_whose_row_a_frozen_holder_had_locked_can_be_taken_over(
    sessions: Sessions, new_run: Callable[[], Run]
) -> None:
    new_run()
    claim = {"device": "cpu", "place": "here", "lease_seconds": 30.0, "limits": LIMITS}
    with sessions.begin() as session:
        token = runs.claim(session, worker="a", **claim)  # type: ignore[arg-type]
        assert token is not None
        watched = runs.leases(session)
    frozen = sessions()
    frozen.execute(text("SET idle_in_transaction_session_timeout = '500ms'"))  # the test's ten seconds
    runs.hold(frozen, token)
    with sessions.begin() as session:
        assert runs.claim(session, worker="b", expired=watched, **claim) is None, "the row is locked"  # type: ignore[arg-type]
        session.execute(text("SELECT pg_sleep(1)"))
        assert runs.claim(session, worker="b", expired=watched, **claim) == runs.Token(token.run_id, 2)  # type: ignore[arg-type]
    frozen.invalidate()
