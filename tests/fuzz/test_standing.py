"""What makes requests succeed keeps doing so: each operation that is helped is asked once in a studio that is worked in."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import httpx
import pytest
import schemathesis
from schemathesis.schemas import BaseSchema
from schemathesis.transport.serialization import Binary

from backend.core import people
from backend.core.models import Role
from tests.fuzz import api, standing
from tests.fuzz.findings import Figures
from tests.fuzz.standing import PASSWORD, WAYS, Badge, Standing
from tests.support.webs import Web


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with api.worked_in() as web:
        yield web


@pytest.fixture(scope="module")
def badge(web: Web) -> Badge:
    return Badge(web, Role.ADMIN, people.hash_password(PASSWORD))


@pytest.fixture(scope="module")
def schema(web: Web, badge: Badge) -> BaseSchema:
    bearer = {"Authorization": f"Bearer {badge.secret()}"}
    document = httpx.get(f"{web.address}/api/v1/openapi.json", headers=bearer, trust_env=False, timeout=60).json()
    return schemathesis.openapi.from_dict(
        api.grounded(document), config=api.configuration(api.Plan(Role.ADMIN, 1, 1), web.address)
    )


@pytest.mark.parametrize("label", WAYS)
def test_a_request_that_is_given_what_it_needs_succeeds(schema: BaseSchema, badge: Badge, label: str) -> None:
    method, path = label.split()
    case = schema[path][method].Case()
    case.headers["Authorization"] = f"Bearer {badge.secret()}"
    Standing(badge, Random(1), Figures()).given(label).into(case)
    answer = case.call()
    assert 200 <= answer.status_code < 300, answer.content


def test_a_piece_of_random_bytes_is_sent_as_these_bytes() -> None:
    assert api.as_bytes(Binary(b"\xff\0owls")) == b"\xff\0owls"


def test_what_cannot_be_made_for_a_request_is_a_finding(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_make: standing.Maker) -> standing.Given:
        raise LookupError("no owls")

    monkeypatch.setattr(standing, "SHARE", 1)
    monkeypatch.setitem(WAYS, "POST /api/v1/tokens", breaks)
    plan = api.Plan(Role.ADMIN, 10_000, seed=1, examples=2, phases=(api.Phase.FUZZING,), seconds=60)
    found = api.fuzz(web, plan).figures.findings
    assert [each for each in found if "could not be made: LookupError" in each], found
