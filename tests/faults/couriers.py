"""Somebody who brings files and fetches what runs give away, all the while that a studio is struck.

What the studio said it has must be there at the end, as it was sent; what is fetched through every break must be what was given.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from random import Random

import httpx

from backend.commands.client import Client, Refused, Unreachable, check
from backend.core.errors import StudioError
from backend.web.shapes.datasets import DatasetDetailOut, OperationOut, UploadOut
from backend.web.shapes.runs import ArtifactOut
from tests.faults.checker import Violation
from tests.faults.people import unexpected

ROWS, PIECES = 300, 4
ANSWER_BYTES = (2000, 120)
"""Of each row. Every second file has a hundred kilobytes, which are read at once; the others have more than a mebibyte, which a
struck studio reads in the background. All of them come in so many pieces."""
OPERATIONS = "/api/v1/operations/"
TIMEOUT = httpx.Timeout(10.0)
PAUSE_SECONDS, REST_SECONDS = 0.5, 3.0
BUSY = {409, 423}
"""Another connection, which may be dead, stands or writes there."""


@dataclass(frozen=True)
class Parcel:
    """A file that is brought: its name as a data set, and what is in it."""

    name: str
    content: bytes

    @classmethod
    def made(cls, number: int, dice: Random) -> Parcel:
        name = f"parcel-{number}"
        size = ANSWER_BYTES[number % len(ANSWER_BYTES)]
        lines = (
            json.dumps({"instruction": f"{name}, {row}?", "output": dice.randbytes(size).hex()}) for row in range(ROWS)
        )
        return cls(name, "".join(f"{line}\n" for line in lines).encode())

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def answers(self) -> list[str]:
        return [json.loads(line)["output"] for line in self.content.splitlines()]


class Deed(StrEnum):
    """What a courier does. `LATER`: the file was read in the background, which is counted besides its being brought."""

    BROUGHT = "brought"
    LATER = "read in the background"
    FETCHED = "fetched"


class Courier(threading.Thread):
    """Brings one file after the other, each through as many breaks as it takes, and fetches a file of an artifact in between.
    It lives until it is closed: one that ended before has broken off, and is to be told as that."""

    def __init__(self, client: Client, dice: Random) -> None:
        super().__init__(name="courier", daemon=True)
        self.client, self.dice = client, dice
        self.accepted: list[Parcel] = []
        self.done: list[tuple[float, Deed]] = []
        """When what came to its end as it should, in seconds since the epoch."""
        self.wrong: list[str] = []
        self.is_idle = False
        """Nothing is on its way, and nothing more will be."""
        self._is_resting = False
        self._closed = threading.Event()

    def rest(self) -> None:
        """Bring what is on its way to its end, and nothing more."""
        self._is_resting = True

    def close(self) -> None:
        self._closed.set()
        self.client.http.close()
        self.join(30)

    def run(self) -> None:
        count = 0
        while not self._is_resting and not self._closed.is_set():
            count += 1
            self._bring(Parcel.made(count, self.dice))
            with self._through_breaks():
                self._fetch_something()
            self._closed.wait(REST_SECONDS)
        while not self._has_tidied() and not self._closed.wait(PAUSE_SECONDS):
            pass
        self.is_idle = True
        self._closed.wait()

    def _has_tidied(self) -> bool:
        """Whether what was begun twice is called off, as a person does who finds it in the list: nothing of it ever came."""
        with self._through_breaks():
            for each in self.client.ask(list[UploadOut], "GET", "/uploads", timeout=TIMEOUT):
                if not each.offset:
                    self._asked("DELETE", f"/uploads/{each.id}", {})
            return True
        return False

    @contextmanager
    def _through_breaks(self) -> Iterator[None]:
        """Where nobody answers just now, or somebody else stands there, it is tried again. Any other refusal is kept."""
        try:
            yield
        except Refused as refused:
            if refused.status not in BUSY:
                self.wrong += unexpected(refused)
        except (Unreachable, httpx.HTTPError):
            pass
        except Exception:
            if not self._closed.is_set():  # that breaks off what is under way in any manner
                raise

    def _note(self, deed: Deed) -> None:
        self.done.append((time.time(), deed))

    # ---- bringing ------------------------------------------------------------------------------------------------

    def _bring(self, parcel: Parcel) -> None:
        """Until the studio has it, or said that it never will."""
        address = place = ""
        refused_before = len(self.wrong)
        while not self._closed.is_set() and len(self.wrong) == refused_before:
            with self._through_breaks():
                address = address or self._standing(parcel) or self._begun(parcel)
                place = place or self._sent(parcel, address)
                if self._is_read(parcel, place):
                    self.accepted.append(parcel)
                    self._note(Deed.BROUGHT)
                    return
            self._closed.wait(PAUSE_SECONDS)

    def _is_read(self, parcel: Parcel, place: str) -> bool:
        """Whether what became of it is a data set, or an operation that has come to its end."""
        if not place.startswith(OPERATIONS):
            return True
        operation = self.client.ask(OperationOut, "GET", place.removeprefix("/api/v1"), timeout=TIMEOUT)
        if operation.state == "succeeded":
            self._note(Deed.LATER)
            return True
        if operation.state != "running":
            words = operation.error.message if operation.error else "without a word"
            self.wrong.append(f"{parcel.name}, which came whole, is {operation.state}: {words}")
        return False

    def _standing(self, parcel: Parcel) -> str:
        """One that was begun, where the answer to that never came."""
        standing = self.client.ask(list[UploadOut], "GET", "/uploads", timeout=TIMEOUT)
        return next((f"/uploads/{each.id}" for each in standing if each.dataset == parcel.name), "")

    def _begun(self, parcel: Parcel) -> str:
        words = {"dataset": parcel.name, "filename": f"{parcel.name}.jsonl"}
        told = ",".join(f"{key} {b64encode(text.encode()).decode()}" for key, text in words.items())
        headers = {"Upload-Length": str(len(parcel.content)), "Upload-Metadata": told}
        return self._asked("POST", "/uploads", headers).headers["Location"].removeprefix("/api/v1")

    def _sent(self, parcel: Parcel, address: str) -> str:
        """The address of what became of it."""
        answer = self._asked("HEAD", address, {})
        step = len(parcel.content) // PIECES + 1
        while "Location" not in answer.headers:
            at = int(answer.headers["Upload-Offset"])
            headers = {"Upload-Offset": str(at), "Content-Type": "application/offset+octet-stream"}
            answer = self._asked("PATCH", address, headers, parcel.content[at : at + step])
        return answer.headers["Location"]

    def _asked(self, method: str, path: str, headers: dict[str, str], content: bytes | None = None) -> httpx.Response:
        answer = self.client.http.request(method, path, headers=headers, content=content, timeout=TIMEOUT)
        check(answer)
        return answer

    # ---- fetching ------------------------------------------------------------------------------------------------

    def _fetch_something(self) -> None:
        """A file of a run that has succeeded, whose artifacts nobody takes back. What is offered is asked for once."""
        done = [run.name for run in self.client.runs(limit=200) if run.state == "succeeded"]
        if not done:
            return
        of_run = f"/runs/{self.dice.choice(done)}/artifacts"
        offered = self.client.ask(list[ArtifactOut], "GET", of_run, timeout=TIMEOUT)
        files = [(artifact.id, file) for artifact in offered for file in artifact.files]
        if files:
            artifact, file = self.dice.choice(files)
            self._fetch(f"/artifacts/{artifact}/files/{file['name']}", file["bytes"], file["sha256"])

    def _fetch(self, path: str, size: int, sha256: str) -> None:
        """Goes on behind the last byte that came."""
        came = bytearray()
        refused_before = len(self.wrong)
        while len(came) < size:
            with self._through_breaks():
                self._continue(path, came)
            if self._closed.is_set() or len(self.wrong) > refused_before:
                return
            if len(came) < size:
                self._closed.wait(PAUSE_SECONDS)
        if hashlib.sha256(came).hexdigest() == sha256:
            self._note(Deed.FETCHED)
        else:
            self.wrong.append(f"{path} was fetched with {len(came)} bytes that are not those of the artifact")

    def _continue(self, path: str, came: bytearray) -> None:
        headers = {"Range": f"bytes={len(came)}-"}
        with self.client.http.stream("GET", path, headers=headers, timeout=TIMEOUT) as answer:
            check(answer)
            for block in answer.iter_bytes():
                came += block

    # ---- at the end ----------------------------------------------------------------------------------------------

    def look(self) -> Iterator[Violation]:
        """Whether all that the studio said it has is there."""
        for parcel in self.accepted:
            try:
                yield from _differences(self.client, parcel)
            except StudioError as error:
                yield Violation("no accepted file is lost", f"{parcel.name}: {error}")
        yield from (Violation("files come and go as they are", words) for words in self.wrong)
        for left in self.client.ask(list[UploadOut], "GET", "/uploads"):
            yield Violation(
                "an upload comes to its end", f"{left.dataset} waits at byte {left.offset} of {left.length}"
            )


def meanwhile(done: Iterable[tuple[float, Deed]], since: float) -> Counter[str]:
    """How often each deed came to its end after that moment."""
    return Counter(deed for at, deed in done if at > since)


def _differences(client: Client, parcel: Parcel) -> Iterator[Violation]:
    """Between what was sent and what is there."""
    history = client.ask(DatasetDetailOut, "GET", f"/datasets/{parcel.name}").history
    if [version.source_sha256 for version in history] != [parcel.sha256]:
        yield Violation(
            "no accepted file is lost", f"{parcel.name}: {len(history)} versions, not the one that was sent"
        )
    with client.download(f"/api/v1/datasets/{parcel.name}/download", {}) as answer:
        rows = [json.loads(line) for line in answer.iter_lines()]
    if [row["messages"][-1]["content"] for row in rows] != parcel.answers:
        yield Violation(
            "no accepted file is lost", f"{parcel.name}: {len(rows)} rows that are not those that were sent"
        )
