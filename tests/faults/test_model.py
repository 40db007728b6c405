"""The protocol keeps its promises in every order of events, and each of its rules is needed for that."""

from __future__ import annotations

import pytest

from tests.faults.model import INSTANCES, MUTATIONS, RULES, explore


@pytest.mark.parametrize("name", INSTANCES)
def test_no_order_of_events_breaks_a_promise(name: str) -> None:
    found = explore(INSTANCES[name])
    assert not found.broken, "\n".join((*found.trace, found.broken))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_that_is_left_out_is_missed(rule: str) -> None:
    found = explore(INSTANCES[MUTATIONS[rule]], frozenset({rule}))
    assert found.broken
    assert found.trace
