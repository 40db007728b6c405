"""Who brings files to a studio, and fetches what it gives away, tells what a broken studio does to either."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from uuid import UUID

import httpx
import pytest
from pydantic import BaseModel

from backend.commands.access import Access
from backend.commands.client import Client
from backend.web.shapes.common import ErrorBody, Listing
from backend.web.shapes.datasets import OperationOut, UploadOut
from backend.web.shapes.runs import ArtifactOut, RunOut
from tests.faults import couriers
from tests.faults.campaign import ended_early
from tests.faults.couriers import OPERATIONS, Courier, Deed, Parcel, meanwhile
from tests.support.processes import wait_until

SECONDS = 20.0
CONTENT = b"what a run has learned"
SOME, NOW = UUID(int=7), datetime.now(UTC)
RUN = RunOut(
    id=SOME,
    name="run-1",
    state="succeeded",
    intent="run",
    attempt=1,
    seq=9,
    step=8,
    latest={},
    progress={},
    model="tiny",
    method="lora",
    data=["owls v1"],
    created_at=NOW,
    queued_at=NOW,
)
FILE = {"name": "adapter", "bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
ARTIFACT = ArtifactOut(
    id=SOME,
    run="run-1",
    kind="adapter",
    step=8,
    bytes=len(CONTENT),
    sha256=str(FILE["sha256"]),
    files=[FILE],
    facts={},
    created_at=NOW,
    download="/",
)
UPLOAD = UploadOut(id=SOME, dataset="parcel-0", filename="a.jsonl", length=9, offset=0, begun_at=NOW)
READ_BY = f"{OPERATIONS}{SOME}"
Answer = Callable[[], httpx.Response]


def told(*shapes: BaseModel) -> httpx.Response:
    return httpx.Response(200, json=[each.model_dump(mode="json") for each in shapes])


def refusal(status: int) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": "No."}})


def no_answer() -> httpx.Response:
    raise httpx.ReadError("It broke off.")


def being_read() -> httpx.Response:
    return httpx.Response(204, headers={"Location": READ_BY})


def operation(state: str, error: str = "") -> httpx.Response:
    told_why = ErrorBody(code="error", message=error) if error else None
    read = OperationOut.model_validate(
        {"id": SOME, "kind": "ingest", "state": state, "done": 9, "error": told_why, "created_at": NOW}
    )
    return httpx.Response(200, json=read.model_dump(mode="json"))


class Broken(httpx.BaseTransport):
    """A studio that goes wrong in some of its answers, which a real one cannot be made to. It takes each file at once, and has
    one run with one artifact. `answers`: what it says instead, one after the other and the last of them again and again, to
    whoever asks in that way for a path that begins so."""

    def __init__(self, answers: dict[tuple[str, str], list[Answer]]) -> None:
        self.answers = answers
        self.asked: Counter[tuple[str, str]] = Counter()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v1")
        self.asked[request.method, path] += 1
        for (method, start), instead in self.answers.items():
            if request.method == method and path.startswith(start):
                return (instead.pop(0) if len(instead) > 1 else instead[0])()
        return self._healthy(request.method, path)

    def _healthy(self, method: str, path: str) -> httpx.Response:
        match method, path:
            case "POST", _:
                return httpx.Response(201, headers={"Location": f"/api/v1/uploads/{SOME}"})
            case "HEAD", _:
                return httpx.Response(200, headers={"Upload-Offset": "0"})
            case "PATCH", _:
                return httpx.Response(204, headers={"Location": "/api/v1/datasets/parcel"})
            case "GET", "/runs":
                return httpx.Response(200, json=Listing[RunOut](items=[RUN]).model_dump(mode="json"))
            case "GET", "/runs/run-1/artifacts":
                return told(ARTIFACT)
            case "GET", _ if path.startswith("/artifacts/"):
                return httpx.Response(206, content=CONTENT)
            case "GET", _ if path.startswith("/operations/"):
                return operation("succeeded")
        return told()


@contextmanager
def courier_of(studio: Broken) -> Iterator[Courier]:
    client = Client(Access("http://studio", "token"))
    client.http.close()
    client.http = httpx.Client(base_url="http://studio/api/v1", transport=studio)
    courier = Courier(client, Random(7))
    courier.start()
    try:
        yield courier
    finally:
        courier.close()


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(couriers, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(couriers, "REST_SECONDS", 0.01)


def deeds(courier: Courier) -> set[Deed]:
    return {deed for _, deed in courier.done}


def test_a_healthy_studio_is_told_nothing_of() -> None:
    with courier_of(Broken({})) as courier:
        wait_until(
            lambda: deeds(courier) == {Deed.BROUGHT, Deed.FETCHED}, seconds=SECONDS, what="a file to go each way"
        )
        courier.rest()
        wait_until(lambda: courier.is_idle, seconds=SECONDS, what="the end of what was on its way")
        assert courier.wrong == []
        assert list(ended_early(courier)) == [], "it lives until it is closed"
    assert not courier.is_alive()


def test_what_is_read_in_the_background_is_followed_to_its_end_through_breaks() -> None:
    going_on: list[Answer] = [no_answer, lambda: operation("running"), lambda: refusal(503)]
    studio = Broken(
        {("PATCH", "/"): [being_read], ("GET", "/operations/"): [*going_on, lambda: operation("succeeded")]}
    )
    with courier_of(studio) as courier:
        wait_until(lambda: len(courier.accepted) > 1, seconds=SECONDS, what="a file to be taken")
        assert deeds(courier) >= {Deed.BROUGHT, Deed.LATER}
        assert courier.wrong == []
    assert studio.asked["GET", f"/operations/{SOME}"] >= len(going_on) + 1


@pytest.mark.parametrize(
    ("method", "path", "answer", "words"),
    [
        ("GET", "/operations/", lambda: operation("failed", "This failed unexpectedly."), "failed: This failed"),
        ("GET", "/operations/", lambda: operation("cancelled"), "cancelled: without a word"),
        ("GET", "/operations/", lambda: refusal(404), "status 404"),
        ("GET", "/runs", lambda: refusal(500), "status 500"),
        ("GET", "/runs/run-1/artifacts", lambda: refusal(404), "status 404"),
        ("GET", "/artifacts/", lambda: httpx.Response(206, content=CONTENT[::-1]), "not those of the artifact"),
        ("GET", "/artifacts/", lambda: refusal(404), "status 404"),
        ("POST", "/uploads", lambda: refusal(500), "status 500"),
        ("GET", "/uploads", lambda: refusal(500), "status 500"),
    ],
)
def test_what_a_studio_does_wrong_is_told(method: str, path: str, answer: Answer, words: str) -> None:
    with courier_of(Broken({("PATCH", "/"): [being_read], (method, path): [answer]})) as courier:
        wait_until(lambda: courier.wrong, seconds=SECONDS, what="a word")
        assert words in courier.wrong[0]


def test_a_refusal_to_tidy_up_is_told_and_one_because_somebody_is_there_is_not() -> None:
    standing = {("GET", "/uploads"): [lambda: told(UPLOAD)]}
    refused: list[Answer] = [lambda: refusal(423), lambda: refusal(409), lambda: refusal(500), lambda: told()]
    with courier_of(Broken({**standing, ("DELETE", "/uploads/"): refused})) as courier:
        courier.rest()
        wait_until(lambda: courier.is_idle, seconds=SECONDS, what="the end of what was on its way")
    assert courier.wrong == ["status 500: No."]


@pytest.mark.parametrize(
    ("path", "answer"),
    [(f"/runs/{RUN.name}/artifacts", told), (f"/artifacts/{SOME}/files/adapter", no_answer)],
    ids=["a run without artifacts", "it breaks off"],
)
def test_what_was_not_fetched_whole_is_not_counted(path: str, answer: Answer) -> None:
    studio = Broken({("GET", path): [answer]})
    with courier_of(studio) as courier:
        wait_until(lambda: studio.asked["GET", path] > 1, seconds=SECONDS, what="a second try")
        assert courier.is_alive()
    assert (Deed.FETCHED in deeds(courier), courier.wrong) == (False, [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_courier_that_breaks_off_is_told_by_name() -> None:
    """An answer lacks what every answer has."""
    with courier_of(Broken({("HEAD", "/uploads/"): [lambda: httpx.Response(200)]})) as courier:
        courier.join(SECONDS)
        (violation,) = ended_early(courier)
    assert (violation.rule, violation.what) == ("who looks goes on to the end", "courier ended")


def test_only_what_was_done_from_the_first_strike_on_is_counted() -> None:
    done = [(99.0, Deed.BROUGHT), (101.0, Deed.BROUGHT), (102.0, Deed.LATER), (99.5, Deed.FETCHED)]
    assert meanwhile(done, 100.0) == Counter({Deed.BROUGHT: 1, Deed.LATER: 1})


def test_every_second_file_is_large_enough_to_be_read_in_the_background() -> None:
    sizes = [len(Parcel.made(number, Random(7)).content) >> 20 for number in range(1, 5)]
    assert sizes == [0, 1, 0, 1]
