"""Schemathesis over the whole API, shortly: the long form is `make fuzz`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.core.models import Role
from tests.fuzz import api
from tests.support.webs import Web

SECONDS = 150


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with api.worked_in() as web:
        yield web


@pytest.mark.parametrize(("role", "cases"), [(Role.ADMIN, 350), (Role.MEMBER, 150), (Role.VIEWER, 60), (None, 60)])
def test_every_answer_is_one_that_is_described(web: Web, role: Role | None, cases: int) -> None:
    seen = api.fuzz(web, api.Plan(role, cases, seed=1, examples=1, covers=False, seconds=SECONDS))
    assert seen.figures.cases, "nothing was tried"
    found = seen.figures.findings.values()
    assert not found, "\n\n".join(f"{finding}\n{finding.how}" for finding in found)
