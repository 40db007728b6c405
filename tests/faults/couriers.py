"""Somebody who brings files and fetches what runs give away, all the while that a studio is struck.

What the studio said it has must be there at the end, as it was sent; what is fetched through every break must be what was given.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import httpx

from backend.commands.client import Client, Refused, Unreachable, check
from backend.core.errors import StudioError
from backend.web.shapes.datasets import DatasetDetailOut, UploadOut
from backend.web.shapes.runs import ArtifactOut
from tests.faults.checker import Violation
from tests.faults.people import unexpected

ROWS, PIECES = 300, 4
"""Of each file: a hundred kilobytes, which come in so many pieces."""
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
        lines = (
            json.dumps({"instruction": f"{name}, {row}?", "output": dice.randbytes(120).hex()}) for row in range(ROWS)
        )
        return cls(name, "".join(f"{line}\n" for line in lines).encode())

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def answers(self) -> list[str]:
        return [json.loads(line)["output"] for line in self.content.splitlines()]


class Courier(threading.Thread):
    """Brings one file after the other, each through as many breaks as it takes, and fetches a file of an artifact in between."""

    def __init__(self, client: Client, dice: Random) -> None:
        super().__init__(name="courier", daemon=True)
        self.client, self.dice = client, dice
        self.accepted: list[Parcel] = []
        self.fetched = 0
        self.wrong: list[str] = []
        self.is_idle = False
        """Nothing is on its way, and nothing more will be."""
        self._is_resting, self._is_closed = False, False

    def rest(self) -> None:
        """Bring what is on its way to its end, and nothing more."""
        self._is_resting = True

    def close(self) -> None:
        self._is_closed = True
        self.client.http.close()
        self.join(30)

    def run(self) -> None:
        count = 0
        while not self._is_resting and not self._is_closed:
            count += 1
            self._bring(Parcel.made(count, self.dice))
            self._fetch_something()
            time.sleep(REST_SECONDS)
        while not self._has_tidied() and not self._is_closed:
            time.sleep(PAUSE_SECONDS)
        self.is_idle = True

    def _has_tidied(self) -> bool:
        """Whether what was begun twice is called off, as a person does who finds it in the list: nothing of it ever came."""
        with suppress(StudioError, httpx.HTTPError, RuntimeError):
            for each in self.client.ask(list[UploadOut], "GET", "/uploads", timeout=TIMEOUT):
                if not each.offset:
                    self._asked("DELETE", f"/uploads/{each.id}", {})
            return True
        return False

    # ---- bringing ------------------------------------------------------------------------------------------------

    def _bring(self, parcel: Parcel) -> None:
        address = ""
        while not self._is_closed:
            try:
                address = address or self._standing(parcel) or self._begun(parcel)
                if self._sent(parcel, address):
                    self.accepted.append(parcel)
                    return
            except Refused as refused:
                if refused.status not in BUSY and (wrong := unexpected(refused)):
                    self.wrong += wrong
                    return
            except (StudioError, httpx.HTTPError, RuntimeError):
                pass  # nobody answers just now, or the client was closed
            time.sleep(PAUSE_SECONDS)

    def _standing(self, parcel: Parcel) -> str:
        """One that was begun, where the answer to that never came."""
        standing = self.client.ask(list[UploadOut], "GET", "/uploads", timeout=TIMEOUT)
        return next((f"/uploads/{each.id}" for each in standing if each.dataset == parcel.name), "")

    def _begun(self, parcel: Parcel) -> str:
        words = {"dataset": parcel.name, "filename": f"{parcel.name}.jsonl"}
        told = ",".join(f"{key} {b64encode(text.encode()).decode()}" for key, text in words.items())
        headers = {"Upload-Length": str(len(parcel.content)), "Upload-Metadata": told}
        return self._asked("POST", "/uploads", headers).headers["Location"].removeprefix("/api/v1")

    def _sent(self, parcel: Parcel, address: str) -> bool:
        """Whether the studio names what became of it."""
        answer = self._asked("HEAD", address, {})
        step = len(parcel.content) // PIECES + 1
        while "Location" not in answer.headers:
            at = int(answer.headers["Upload-Offset"])
            headers = {"Upload-Offset": str(at), "Content-Type": "application/offset+octet-stream"}
            answer = self._asked("PATCH", address, headers, parcel.content[at : at + step])
        return True

    def _asked(self, method: str, path: str, headers: dict[str, str], content: bytes | None = None) -> httpx.Response:
        answer = self.client.http.request(method, path, headers=headers, content=content, timeout=TIMEOUT)
        check(answer)
        return answer

    # ---- fetching ------------------------------------------------------------------------------------------------

    def _fetch_something(self) -> None:
        """A file of a run that has succeeded, whose artifacts nobody takes back. What is offered is asked for once."""
        with suppress(StudioError, httpx.HTTPError, RuntimeError):
            done = [run.name for run in self.client.runs(limit=200) if run.state == "succeeded"]
            if not done:
                return
            offered = self.client.ask(
                list[ArtifactOut], "GET", f"/runs/{self.dice.choice(done)}/artifacts", timeout=TIMEOUT
            )
            artifact = self.dice.choice(offered)
            file = self.dice.choice(artifact.files)
            self._fetch(f"/artifacts/{artifact.id}/files/{file['name']}", file["bytes"], file["sha256"])

    def _fetch(self, path: str, size: int, sha256: str) -> None:
        """Goes on behind the last byte that came."""
        came = bytearray()
        while len(came) < size and not self._is_closed:
            try:
                with self.client.http.stream(
                    "GET", path, headers={"Range": f"bytes={len(came)}-"}, timeout=TIMEOUT
                ) as answer:
                    check(answer)
                    for block in answer.iter_bytes():
                        came += block
            except Refused as refused:
                if wrong := unexpected(refused):
                    self.wrong += wrong
                    return
                time.sleep(PAUSE_SECONDS)
            except (Unreachable, httpx.HTTPError):
                time.sleep(PAUSE_SECONDS)
        self.fetched += 1
        if hashlib.sha256(came).hexdigest() != sha256:
            self.wrong.append(f"{path} was fetched with {len(came)} bytes that are not those of the artifact")

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
