"""What is copied into Postgres comes back as it was."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DataError, OperationalError, UnboundExecutionError
from sqlalchemy.orm import Session

from backend.core.bulk import copy, copy_packed
from backend.core.events import EventKind, emit_all
from backend.core.models import Outbox, Point, Run, RunEvent
from backend.core.points import POINT, store
from tests.core.conftest import Sessions

ODD_NAMES = ["loss", "a\tb", "a\\b", "\\N", "line\nbreak", "re\rturn", "\\.", "评估 “loss”", ""]
ODD_VALUES = [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.nan, math.inf, -math.inf]


def test_text_and_numbers_come_back_to_the_last_bit(sessions: Sessions, new_run: Callable[[], Run]) -> None:
    run = new_run()
    rows = [(str(run.id), name, at, value, 1e9) for name in ODD_NAMES for at, value in enumerate(ODD_VALUES)]
    with sessions.begin() as session:
        copy(session, Point, POINT, rows)
    assert stored(sessions) == sorted((name, step, value.hex()) for _run, name, step, value, _at in rows)


def test_points_in_the_binary_format_come_back_to_the_last_bit(sessions: Sessions, new_run: Callable[[], Run]) -> None:
    run = new_run()
    curve = [(1 + at, value, 1e9) for at, value in enumerate(ODD_VALUES)] + [(1 << 40, 0.5, 1e9)]
    with sessions.begin() as session:
        store(session, run.id, dict.fromkeys(ODD_NAMES, curve), beyond=0)
    assert stored(sessions) == sorted((name, step, value.hex()) for name in ODD_NAMES for step, value, _at in curve)


def test_pieces_that_are_all_empty_ask_postgres_nothing() -> None:
    nowhere = Session()
    copy_packed(nowhere, Point, POINT, iter([b"", b""]))
    with pytest.raises(UnboundExecutionError):
        copy_packed(nowhere, Point, POINT, iter([b"", b"a row"]))


def stored(sessions: Sessions) -> list[tuple[str, int, str]]:
    with sessions.begin() as session:
        rows = session.execute(select(Point.name, Point.step, Point.value)).all()
    return sorted((name, step, value.hex()) for name, step, value in rows)


def test_many_events_at_once_are_as_if_they_had_been_told_one_by_one(
    sessions: Sessions, new_run: Callable[[], Run]
) -> None:
    run = new_run()
    told = [(step, {"values": {"loss": "NaN"}, "text": '"\\n\t" — 好'}) for step in range(1, 2500)]
    with sessions.begin() as session:
        held = session.get_one(Run, run.id)
        before = held.seq
        emit_all(session, held, EventKind.METRICS, told)
    with sessions.begin() as session:
        newer = select(RunEvent).where(RunEvent.run_id == run.id, RunEvent.seq > before).order_by(RunEvent.seq)
        events = list(session.execute(newer).scalars())
    assert [event.seq for event in events] == list(range(before + 1, before + 2500))
    assert [(event.step, event.data) for event in events] == told
    assert {event.kind for event in events} == {EventKind.METRICS}


def test_what_is_copied_in_a_transaction_that_fails_was_never_there(
    sessions: Sessions, new_run: Callable[[], Run]
) -> None:
    run = new_run()
    with sessions() as session:
        copy(session, Point, POINT, [(str(run.id), "loss", 1, 0.5, 1e9)])
        session.rollback()
        assert session.execute(select(Point)).first() is None


def test_a_value_that_cannot_be_stored_fails_as_in_every_other_statement(sessions: Sessions) -> None:
    with pytest.raises(DataError), sessions.begin() as session:
        copy(session, Outbox, ("hint", "subject"), [("run", "\0")])


def test_a_connection_that_breaks_fails_as_in_every_other_statement(sessions: Sessions) -> None:
    """A holder of runs takes it for an outage, and goes on."""
    with sessions() as session:
        own = session.execute(select(func.pg_backend_pid())).scalar_one()
        with sessions.begin() as other:
            other.execute(select(func.pg_terminate_backend(own, 5000)))
        with pytest.raises(OperationalError):
            copy(session, Outbox, ("hint", "subject"), [("run", "x")])
