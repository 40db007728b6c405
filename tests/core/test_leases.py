"""A claimant's stopwatch."""

from datetime import UTC, datetime, timedelta

from backend.core.ids import uuid7
from backend.core.leases import LeaseWatch
from backend.core.runs import Lease

LEASE = Lease(uuid7(), 1, datetime(2026, 1, 1, tzinfo=UTC))
RENEWED = Lease(LEASE.run_id, 1, LEASE.until + timedelta(seconds=5))


def test_a_lease_is_over_once_it_was_watched_unchanged_for_its_whole_length() -> None:
    watch = LeaseWatch[Lease](30)
    assert watch.observe(0, [LEASE]) == []
    assert watch.observe(15, [LEASE]) == []
    assert watch.observe(29, [LEASE]) == []
    assert watch.observe(30, [LEASE]) == [LEASE]


def test_a_renewal_starts_the_watch_anew() -> None:
    watch = LeaseWatch[Lease](30)
    watch.observe(0, [LEASE])
    watch.observe(10, [RENEWED])
    assert watch.observe(20, [RENEWED]) == []
    assert watch.observe(35, [RENEWED]) == []
    assert watch.observe(40, [RENEWED]) == [RENEWED]


def test_after_an_outage_nothing_that_was_seen_before_counts() -> None:
    watch = LeaseWatch[Lease](30)
    watch.observe(0, [LEASE])
    watch.forget()
    assert watch.observe(31, [LEASE]) == []


def test_a_claimant_that_stood_still_itself_has_not_watched() -> None:
    watch = LeaseWatch[Lease](30)
    watch.observe(0, [LEASE])
    assert watch.observe(40, [LEASE]) == []
    assert watch.observe(50, [LEASE]) == []


def test_a_clock_that_jumps_changes_nothing() -> None:
    ancient = Lease(LEASE.run_id, 1, datetime(1970, 1, 1, tzinfo=UTC))
    assert LeaseWatch[Lease](30).observe(0, [ancient]) == []
