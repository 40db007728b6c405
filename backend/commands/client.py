"""The API as typed functions: what the commands ask a studio, and how its errors and broken connections come back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from backend.commands.access import Access, find_access
from backend.core.errors import Problem, StudioError, Unavailable
from backend.core.ids import uuid7
from backend.core.settings import settings
from backend.web.shapes.common import Listing
from backend.web.shapes.datasets import DatasetDetailOut, DatasetOut, OperationOut
from backend.web.shapes.models import BaseOut, HubModelOut
from backend.web.shapes.runs import ArtifactOut, CurvesOut, EventOut, RunDetailOut, RunOut, SampleOut, SamplesOut

T = TypeVar("T")
Json = dict[str, Any]
OnBytes = Callable[[int], None]
"""Hears how many bytes were just sent or received; less than none where they are sent anew."""

PIECE_BYTES = 1 << 18
TIMEOUT = httpx.Timeout(30.0, read=600.0)
"""A launch renders every row before it answers; a data set is read before it is."""
SILENCE_SECONDS = 30.0
"""Streams beat every 10 s: one that says nothing for this long is broken."""
PATIENCE_SECONDS = 120.0
"""How long a stream or a download keeps trying to come back."""
PAUSE_SECONDS = 0.5


class Refused(StudioError):
    """The studio said no. It carries the answer's own words and status."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        problems = tuple(_problem(each) for each in body.get("problems") or ())
        super().__init__(
            str(body.get("message") or f"The studio answered with status {status}."),
            hint=body.get("hint") or "",
            where=body.get("where") or "",
            code=body.get("code") or "error",
            problems=problems,
        )
        self.status = status


def _problem(body: Mapping[str, Any]) -> Problem:
    return Problem(*(str(body.get(name) or "") for name in ("code", "message", "where", "hint")))


class Unreachable(Unavailable):
    """Nothing answers at the studio's address, or it stopped answering."""

    code = "unreachable"

    def __init__(self, address: str, error: object) -> None:
        hint = "Is it running? `studio up` starts it; STUDIO_URL names another."
        super().__init__(f"The studio at {address} cannot be reached: {error}.", hint=hint)


class Bearer(httpx.Auth):
    """Sends the token with every request, for as long as the studio is there. Where it takes the token no more and another can be
    had, that one is used from then on, and the request is sent again, once."""

    def __init__(self, access: Access) -> None:
        self.token, self._renew, self._serves = access.token, access.renew, access.serves

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        response = yield self._signed(request)
        if response.status_code == httpx.codes.UNAUTHORIZED and self._renew:
            self.token = self._renew(self.token)
            yield self._signed(request)

    def _signed(self, request: httpx.Request) -> httpx.Request:
        """Raises as for a broken connection where the studio has ended: it may come back, to whoever waits for it."""
        if not self._serves():
            raise httpx.ConnectError("no studio of this home serves there", request=request)
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class Client:
    """A connection to one studio. Every method raises `Refused` or `Unreachable`, and what `Access.renew` does."""

    def __init__(self, access: Access, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.address, self.patience_seconds = access.address, patience_seconds
        self.bearer = Bearer(access)
        # Proxies of the environment are for the world outside; a studio on loopback or in a LAN is not there.
        self.http = httpx.Client(
            base_url=f"{access.address}/api/v1", auth=self.bearer, timeout=TIMEOUT, trust_env=False
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def ask(self, shape: type[T], method: str, path: str, **request: Any) -> T:
        """One request; the answer, read as `shape`."""
        response = self._send(method, path, **request)
        return TypeAdapter(shape).validate_json(response.content)

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self.http.request(method, path, **request)
        except httpx.TransportError as error:
            raise Unreachable(self.address, error) from error
        check(response)
        return response

    # ---- data sets and models ----------------------------------------------------------------------------------------

    def datasets(self) -> list[DatasetOut]:
        return self.ask(list[DatasetOut], "GET", "/datasets")

    def put_dataset(
        self, name: str, file: Path, *, on_bytes: OnBytes, **options: str
    ) -> DatasetDetailOut | OperationOut:
        """Send a file as the data set's next version. A large one is answered with the operation that reads it."""
        headers = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
        response = self._send(
            "PUT",
            f"/datasets/{quote(name, safe='')}",
            params={"filename": file.name, **options},
            headers=headers,
            content=_Pieces(file, on_bytes),
        )
        shape = OperationOut if response.status_code == httpx.codes.ACCEPTED else DatasetDetailOut
        return TypeAdapter[DatasetDetailOut | OperationOut](shape).validate_json(response.content)

    def dataset(self, name: str) -> DatasetDetailOut:
        return self.ask(DatasetDetailOut, "GET", f"/datasets/{quote(name, safe='')}")

    def operation(self, operation_id: object) -> OperationOut:
        return self.ask(OperationOut, "GET", f"/operations/{operation_id}")

    def models(self) -> list[BaseOut]:
        return self.ask(list[BaseOut], "GET", "/models")

    def hub_models(self, words: str) -> list[HubModelOut]:
        return self.ask(list[HubModelOut], "GET", "/models/search", params={"q": words})

    def download_model(self, hub_id: str) -> OperationOut:
        return self.ask(OperationOut, "POST", "/models/download", json={"id": hub_id})

    # ---- runs --------------------------------------------------------------------------------------------------------

    def launch(self, recipe: Json) -> RunDetailOut:
        """The run. Where its model is downloaded first, no answer comes for long: the same is sent again then, under one key, so
        that it waits for the same download and launches once."""
        key = {"Idempotency-Key": str(uuid7())}
        while True:
            try:
                return self.ask(RunDetailOut, "POST", "/runs", json=recipe, headers=key)
            except Unreachable as error:
                if not isinstance(error.__cause__, httpx.ReadTimeout):
                    raise

    def runs(self, limit: int) -> list[RunOut]:
        return self.ask(Listing[RunOut], "GET", "/runs", params={"limit": limit}).items

    def run(self, name: str) -> RunDetailOut:
        return self.ask(RunDetailOut, "GET", _run(name))

    def tell(self, name: str, word: str, **body: Any) -> RunDetailOut:
        """`stop` (with `keep`), `pause` or `resume`."""
        return self.ask(RunDetailOut, "POST", f"{_run(name)}/{word}", json=body or None)

    def samples(self, name: str) -> list[SampleOut]:
        """All answers to the run's prompts, step by step."""
        page = self.ask(SamplesOut, "GET", f"{_run(name)}/samples")
        found = page.samples
        while page.next is not None:
            page = self.ask(SamplesOut, "GET", f"{_run(name)}/samples", params={"to": page.next})
            found += page.samples
        return sorted(found, key=lambda each: (each.step, each.index))

    def curves(self, name: str, *metrics: str) -> CurvesOut:
        return self.ask(CurvesOut, "GET", f"{_run(name)}/metrics", params={"names": ",".join(metrics)})

    def artifacts(self, name: str) -> list[ArtifactOut]:
        return self.ask(list[ArtifactOut], "GET", f"{_run(name)}/artifacts")

    def events(self, name: str, after: int = 0) -> Iterator[EventOut]:
        """Everything that happens in a run after event `after`, until it ends.

        A stream that breaks is opened again behind the last event that came, so that none is missed or seen twice.
        """
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                for kind, data in self._stream(f"{_run(name)}/events", after):
                    deadline = time.monotonic() + self.patience_seconds
                    if kind == "end":
                        return
                    if kind == "message":
                        event = EventOut.model_validate_json(data)
                        after = event.seq
                        yield event
            except (httpx.TransportError, Refused) as error:
                if not is_passing(error):
                    raise
                if time.monotonic() > deadline:
                    raise Unreachable(self.address, error) from error
            time.sleep(PAUSE_SECONDS)

    def _stream(self, path: str, after: int) -> Iterator[tuple[str, str]]:
        """Server-sent events as (kind, data). https://html.spec.whatwg.org/multipage/server-sent-events.html"""
        headers = {"Last-Event-ID": str(after)} if after else {}
        timeout = httpx.Timeout(10.0, read=SILENCE_SECONDS)
        with self.http.stream("GET", path, headers=headers, timeout=timeout) as response:
            check(response)
            kind, lines = "message", list[str]()
            for line in response.iter_lines():
                name, _, value = line.partition(":")
                if name == "event":
                    kind = value.removeprefix(" ")
                elif name == "data":
                    lines.append(value.removeprefix(" "))
                elif not line:
                    if lines:
                        yield kind, "\n".join(lines)
                    kind, lines = "message", []

    def patiently(self, work: Callable[[], T]) -> T:
        """Do `work` again whenever the connection breaks, for as long as the studio's absence can be borne."""
        broken_since: float | None = None
        while True:
            begun = time.monotonic()
            try:
                return work()
            except (httpx.TransportError, Refused) as error:
                if not is_passing(error):
                    raise
                now = time.monotonic()
                if broken_since is None or now - begun > SILENCE_SECONDS:  # it went well for a while in between
                    broken_since = now
                if now - broken_since > self.patience_seconds:
                    raise Unreachable(self.address, error) from error
            time.sleep(PAUSE_SECONDS)

    @contextlib.contextmanager
    def download(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """A file's bytes as they come. `path` is below the studio's address."""
        with self.http.stream("GET", f"{self.address}{path}", headers=dict(headers)) as response:
            check(response)
            yield response


def connect() -> Client:
    """To the studio that the environment or the home names. Raises `StudioError` where none is known, or no token."""
    return Client(find_access(settings()))


def _run(name: str) -> str:
    return f"/runs/{quote(name, safe='')}"


class _Pieces:
    """A file as it is sent: from its beginning whenever it is asked for, as a request that is sent again asks twice."""

    def __init__(self, file: Path, on_bytes: OnBytes) -> None:
        self._file, self._on_bytes, self._sent = file, on_bytes, 0

    def __iter__(self) -> Iterator[bytes]:
        self._tell(-self._sent)
        with self._file.open("rb") as opened:
            while piece := opened.read(PIECE_BYTES):
                yield piece
                self._tell(len(piece))

    def _tell(self, count: int) -> None:
        self._sent += count
        self._on_bytes(count)


def check(response: httpx.Response) -> None:
    """Raise what a refusal says."""
    if response.is_success:
        return
    response.read()
    try:
        body = response.json()["error"]
    except (ValueError, KeyError, TypeError):  # not from the studio but from a proxy before it
        body = {}
    raise Refused(response.status_code, body)


def is_passing(error: Exception) -> bool:
    """Whether the same request may succeed in a moment: the connection broke, or the studio is starting or short of its
    database."""
    return isinstance(error, httpx.TransportError) or (isinstance(error, Refused) and error.status >= 500)
