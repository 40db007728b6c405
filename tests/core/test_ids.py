"""Ids that sort by the time they were made, whatever the clock does."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import time_machine

from backend.core.ids import Order, uuid7


def test_ids_sort_in_the_order_in_which_they_were_made_though_the_clock_is_set_back() -> None:
    made = [uuid7() for _ in range(10_000)]
    with time_machine.travel(time.time() - 3600, tick=True):
        made += [uuid7() for _ in range(10)]
    made.append(uuid7())
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {(each.version, each.variant) for each in made} == {(7, "specified in RFC 4122")}


def test_an_id_tells_its_millisecond() -> None:
    with time_machine.travel(2_000_000_000.5, tick=False):
        assert Order().next() >> 12 == 2_000_000_000_500


def test_threads_get_different_ids() -> None:
    order = Order()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: order.next(), range(20_000)))
    assert len(set(made)) == len(made)
