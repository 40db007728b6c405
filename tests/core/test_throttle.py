"""Failed attempts, as every web process counts them."""

from __future__ import annotations

from contextvars import copy_context
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from backend.core import people, throttle
from backend.core.audit import asking_address
from backend.core.errors import TooMany
from backend.core.models import Failure, Role
from tests.core.conftest import Sessions

ADA, HOME = throttle.account("Ada"), throttle.address("192.0.2.7")


def fail(sessions: Sessions, *counted: throttle.Counted, times: int = 1) -> None:
    for _ in range(times):
        with sessions.begin() as session:
            throttle.attempt(session, *counted)


def test_an_account_is_slowed_down_whatever_the_address_and_the_process(sessions: Sessions) -> None:
    for number in range(throttle.AN_ACCOUNT):
        fail(sessions, throttle.account(" aDA"), throttle.address(f"192.0.2.{number}"))
    with pytest.raises(TooMany) as refused:
        fail(sessions, ADA, throttle.address("198.51.100.1"))
    assert 0 < refused.value.retry_after_seconds <= throttle.WINDOW.total_seconds()
    fail(sessions, throttle.account("bob"), HOME)


def test_strangers_who_fail_lock_nobody_out_of_where_they_signed_in_before(sessions: Sessions) -> None:
    with sessions.begin() as session:
        ada = people.create(session, "Ada", people.NO_PASSWORD, Role.MEMBER, by=None)
        context = copy_context()
        context.run(asking_address.set, "192.0.2.7")
        context.run(people.sign_in, session, ada, "a browser", hours=1)
    with sessions() as session:
        assert people.has_signed_in(session, " aDA", "192.0.2.7")
        assert not people.has_signed_in(session, "Ada", "192.0.2.8")
        assert not people.has_signed_in(session, "bob", "192.0.2.7")
    fail(sessions, ADA, times=throttle.AN_ACCOUNT)
    at_home = throttle.account("Ada", "192.0.2.7")
    fail(sessions, at_home, times=throttle.AN_ACCOUNT)
    for counted in (ADA, at_home):
        with pytest.raises(TooMany):
            fail(sessions, counted)


def test_a_holder_of_many_addresses_is_counted_once(sessions: Sessions) -> None:
    for number in range(throttle.AN_ADDRESS):
        fail(sessions, throttle.address(f"2001:db8::{number:x}"))
    with pytest.raises(TooMany):
        fail(sessions, throttle.address("2001:db8::ffff:1"))
    fail(sessions, throttle.address("2001:db8:0:1::1"))


def test_strangers_by_ipv4_are_told_apart_where_the_studio_listens_on_ipv6(sessions: Sessions) -> None:
    for number in range(throttle.AN_ADDRESS):
        fail(sessions, throttle.address(f"::ffff:192.0.2.{number}"))
    fail(sessions, throttle.address("::ffff:198.51.100.1"))
    assert throttle.address("::ffff:192.0.2.7") == HOME


def test_failures_are_over_after_the_window_and_are_forgotten(sessions: Sessions) -> None:
    fail(sessions, ADA, HOME, times=throttle.AN_ACCOUNT)
    with sessions.begin() as session:
        session.execute(update(Failure).values(at=Failure.at - throttle.WINDOW - timedelta(seconds=1)))
    fail(sessions, ADA)
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Failure)) == 1


def test_who_succeeds_is_forgiven(sessions: Sessions) -> None:
    fail(sessions, ADA, HOME, times=3)
    with sessions.begin() as session:
        throttle.forgive(session, HOME)
        throttle.forget(session, ADA)
    with sessions() as session:
        assert session.scalars(select(Failure.key)).all() == [HOME.key] * 2


def test_what_was_typed_is_not_stored(sessions: Sessions) -> None:
    fail(sessions, throttle.account("my password in the wrong field"))
    with sessions() as session:
        assert "password" not in session.scalars(select(Failure.key)).one()
