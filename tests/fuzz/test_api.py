"""Schemathesis over the whole API, shortly: the long form is `make fuzz`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.core.models import Role
from tests.fuzz import api
from tests.fuzz.api import Phase
from tests.support.webs import Web

SECONDS = 75


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with api.worked_in() as web:
        yield web


@pytest.mark.parametrize(("role", "cases"), [(Role.ADMIN, 350), (Role.MEMBER, 150), (Role.VIEWER, 60), (None, 60)])
def test_every_answer_is_one_that_is_described(web: Web, role: Role | None, cases: int) -> None:
    for phase, examples in ((Phase.FUZZING, 1), (Phase.STATEFUL, 20)):
        plan = api.Plan(role, cases // 2, seed=1, examples=examples, phases=(phase,), seconds=SECONDS)
        seen = api.fuzz(web, plan)
        found = seen.figures.findings.values()
        assert not found, "\n\n".join(f"{finding}\n{finding.how}" for finding in found)
        assert seen.phases[phase] >= cases // 4, f"only {seen.figures} were tried"
        is_led = phase is Phase.STATEFUL and role is not None  # whoever is refused everywhere is told nothing
        assert seen.figures.steps or not is_led, "no answer led to another request"
