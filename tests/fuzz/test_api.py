"""Schemathesis over the whole API, shortly: the long form is `make fuzz`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from schemathesis.engine import events, from_schema

from backend.core.models import Role
from backend.web.reference import describe_errors
from tests.fuzz import __main__ as campaign
from tests.fuzz import api
from tests.fuzz.api import Phase
from tests.fuzz.findings import Finding
from tests.fuzz.reach import End
from tests.fuzz.records import Records
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


@pytest.mark.parametrize(
    ("cases", "seconds", "end"), [(10_000, SECONDS, End.ITSELF), (20, SECONDS, End.BOUND), (10_000, 0, End.CLOCK)]
)
def test_a_round_tells_what_ended_it_and_how_far_it_got(web: Web, cases: int, seconds: int, end: End) -> None:
    seen = api.fuzz(web, api.Plan(None, cases, seed=1, examples=1, phases=(Phase.FUZZING,), seconds=seconds))
    assert seen.end == end
    assert seen.reach.described > seen.reach.succeeded
    assert (seen.reach.asked == seen.reach.described) == (end is End.ITSELF)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (422, {"error": {"code": "limited.failed", "message": "The studio has a fault."}}),
        (200, {"state": "failed", "error": {"code": "limited.failed", "message": "The studio has a fault."}}),
    ],
)
def test_an_answer_that_tells_of_a_reader_which_met_what_it_did_not_expect_is_found_with_the_newest_trace(
    tmp_path: Path, status: int, told: dict[str, Any]
) -> None:
    log = tmp_path / "web.log"
    log.write_text(f"{TRACE}KeyError: 'old'\nthe web goes on\n{TRACE}KeyError: 'planted'\n")
    (found,) = found_in(JSONResponse(told, status), log)
    assert str(found) == "GET /planted: a reader met what it did not expect: KeyError: 'planted'"
    assert all(words in found.how for words in ("GET http", "/planted", "limited.failed", TRACE))


def test_a_file_that_kills_its_reader_is_no_finding(tmp_path: Path) -> None:
    told = {"error": {"code": "limited.crash", "message": "The file is damaged or hostile."}}
    assert not found_in(JSONResponse(told, 422), tmp_path / "web.log")


TRACE = 'Traceback (most recent call last):\n  File "reader.py", line 1, in read\n    facts["x"]\n'


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ("GET /api/v1/me", 404),
        ("GET /api/v1/runs", 409),
        ("GET /api/v1/datasets", 413),
        ("POST /api/v1/runs", 423),
        ("GET /api/v1/runs", 429),
        ("GET /api/v1/me", 500),
        ("POST /api/v1/runs", 500),
    ],
)
def test_an_error_that_an_operation_has_no_way_to_answer_with_is_found(
    tmp_path: Path, operation: str, status: int
) -> None:
    found = map(str, found_in(refused(status), tmp_path / "web.log", operation))
    assert f"{operation} (status_code_conformance): Undocumented status code" in found


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ("POST /api/v1/runs", 404),
        ("GET /api/v1/artifacts/one/download", 409),
        ("PUT /api/v1/datasets/one", 413),
        ("PATCH /api/v1/uploads/one", 423),
    ],
)
def test_an_error_that_an_operation_may_answer_with_is_no_finding(tmp_path: Path, operation: str, status: int) -> None:
    assert found_in(refused(status), tmp_path / "web.log", operation) == []


def test_a_bare_500_is_found(tmp_path: Path) -> None:
    found = map(str, found_in(PlainTextResponse("Internal Server Error", 500), tmp_path / "web.log"))
    assert "GET /planted (not_a_server_error): Server error" in found


def refused(status: int) -> JSONResponse:
    return JSONResponse({"error": {"code": "planted", "message": "No."}}, status)


def found_in(answer: Response, log: Path, operation: str = "GET /planted") -> list[Finding]:
    """What a round finds in a web that answers everything so, as an operation that may refuse what its schema allows."""
    app = FastAPI()
    method, path = operation.split()
    app.add_api_route(path, lambda: answer, methods=[method], operation_id="data_sets_preview")
    described = {"components": {"schemas": {}}} | app.openapi()
    describe_errors(described)
    app.openapi_schema = api.narrowed(described)
    seen = api.Round(log=log)
    plan = api.Plan(None, 1, seed=1, examples=1, phases=(Phase.FUZZING,))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=api.configuration(plan, "http://testserver"))
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            seen.take(event.phase, event.label or "", event.recorder)
    assert seen.figures.cases
    return list(seen.figures.findings.values())


def test_methods_that_no_operation_has_ask_none(web: Web) -> None:
    seen = api.fuzz(web, api.Plan(None, 10_000, seed=1, examples=1, phases=(Phase.COVERAGE,), seconds=SECONDS))
    assert seen.asked > seen.described == seen.reach.asked


def test_a_round_that_the_clock_cut_is_kept_as_such_and_tried_again_by_the_next_call(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def the_same() -> Iterator[Web]:
        yield web

    monkeypatch.setattr(api, "worked_in", the_same)
    monkeypatch.setattr(campaign, "LEAST_SECONDS", 0)
    records = Records(tmp_path / "rounds.jsonl")
    for call in (1, 2):
        campaign.over_api(campaign.Campaign(60, time.monotonic() + 2, 1, records))
        kept = records.load()
        assert [(each.who, each.what, each.end) for each in kept] == [("admin", Phase.FUZZING, End.CLOCK)] * call
        assert kept[-1].reach.described > kept[-1].reach.asked >= kept[-1].reach.succeeded
        assert not kept[-1].findings
