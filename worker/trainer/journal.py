"""The journal of an attempt: one JSON line for everything that happens, in the order in which it happened."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from backend.core import awake
from backend.core.assignment import Line, LineKind, Outcome
from backend.core.errors import StudioError

HEARTBEAT_SECONDS = 10.0
FLUSH_SECONDS = 0.05

Told = tuple[LineKind, int, float, Mapping[str, Any]]
"""A line before it has a number: its kind, its step, when, in seconds since the epoch, and its data."""


class Journal:
    """Appends lines to `events.jsonl`, those that wait in one `write`: a killed trainer leaves whole lines, or half of the last.

    Metrics are written by a thread, every `FLUSH_SECONDS`, and before any other line: a step waits for no disk. What a
    kill can take with it are steps behind the newest checkpoint, and those the next attempt makes again.

    While it is open, a thread writes a `progress` line whenever `heartbeat_seconds` pass without one. Such a line carries
    `idle_seconds`, the time since the work itself last wrote: a silent journal means a dead process, a growing
    `idle_seconds` a stuck one.
    """

    def __init__(self, path: Path, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self.path, self.step = path, 0
        self._progress: dict[str, Any] = {"what": "starting", "done": 0, "total": 0}
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if os.fstat(self._descriptor).st_size:
            raise FileExistsError(f"{path} holds another attempt's lines; each attempt has a folder of its own")
        self._n, self._lock = 0, threading.Lock()
        self._told: deque[Told] = deque()
        self._was_refused = False
        self._last_line = self._last_work = time.monotonic()
        self._heartbeat_seconds, self._closing = heartbeat_seconds, threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._heart.join()
        with self._lock:
            self._flush()
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    @property
    def doing(self) -> str:
        """The phase, or the long part, that the work is in."""
        return str(self._progress["what"])

    @doing.setter
    def doing(self, what: str) -> None:
        self._progress = {"what": what, "done": 0, "total": 0}

    def phase(self, name: str, text: str = "") -> None:
        self.doing = name
        self._write(LineKind.PHASE, {"phase": name, "text": text})

    def facts(self, **facts: Any) -> None:
        self._write(LineKind.FACTS, facts)

    def metrics(self, values: Mapping[str, float], epoch: float) -> None:
        """Tell what a step measured. Raises what came of it, mostly an `OSError`, once it cannot be written."""
        self._told.append((LineKind.METRICS, self.step, time.time(), {"values": dict(values), "epoch": epoch}))
        if self._was_refused:
            with self._lock:
                self._flush()

    def sample(self, **sample: Any) -> None:
        self._write(LineKind.SAMPLE, sample)

    def amended(self, sequence: int, step: int) -> None:
        self._write(LineKind.AMENDED, {"sequence": sequence}, step=step)

    def progress(self, what: str, done: int, total: int) -> None:
        """Say how far a long part has come. Often is fine: it is written once a second."""
        self._progress = {"what": what, "done": done, "total": total}
        self._last_work = now = time.monotonic()
        if now - self._last_line >= 1.0 or done >= total:
            self._write(LineKind.PROGRESS, self._progress)

    def moves(self) -> None:
        """Say that the work goes on where there is nothing to write: within a long step, or a long answer."""
        self._last_work = time.monotonic()

    def log(self, level: str, text: str) -> None:
        self._write(LineKind.LOG, {"level": level, "text": text})

    def emit(self, kind: LineKind, data: Mapping[str, Any]) -> None:
        """A line that somebody else has put together. Progress is thinned, and what names files is synced."""
        if kind is LineKind.PROGRESS:
            self.progress(**data)
        else:
            self._write(kind, data)
        if kind in (LineKind.ARTIFACT, LineKind.CHECKPOINT):
            self.sync()

    def end(self, outcome: Outcome, cause: StudioError | None = None) -> None:
        """The last line. `cause` says, to a person, why it failed."""
        data: dict[str, Any] = {"outcome": outcome.value}
        if cause is not None:
            data["cause"] = cause.as_json()["error"] | {"hint": cause.hint}
        self._write(LineKind.END, data)
        self.sync()

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def copy_to(self, path: Path) -> None:
        """The journal so far, as a checkpoint carries it."""
        with self._lock:
            self._flush()
            path.write_bytes(self.path.read_bytes())

    @contextmanager
    def at_step(self, step: int) -> Iterator[None]:
        """Lines written meanwhile belong to `step`."""
        before, self.step = self.step, step
        try:
            yield
        finally:
            self.step = before

    def _write(self, kind: LineKind, data: Mapping[str, Any], *, step: int | None = None, is_work: bool = True) -> None:
        with self._lock:
            self._flush((kind, self.step if step is None else step, time.time(), data))
            if is_work:
                self._last_work = self._last_line

    def _flush(self, last: Told | None = None) -> None:
        """Write the metrics that wait, and then the line that is to follow them. The caller holds the lock."""
        waiting = [self._told[at] for at in range(len(self._told))]  # meanwhile only more of them may come
        lines = [*waiting, last] if last else waiting
        if not lines:
            return
        try:
            self._append(b"".join(encoded(self._n + at, *line) for at, line in enumerate(lines)))
        except Exception:
            self._was_refused = True  # a step hears of it at once, and of a write that only takes long it hears nothing
            raise
        self._was_refused = False
        for _ in waiting:
            self._told.popleft()
        self._n += len(lines)
        self._last_line = time.monotonic()
        if waiting:
            self._last_work = self._last_line

    def _append(self, line: bytes) -> None:
        """Whole lines or nothing of them: half of one, as a full disk leaves it, would spoil the next one too."""
        before, written = os.fstat(self._descriptor).st_size, 0
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise

    def _beat(self) -> None:
        looked = time.monotonic()
        while not self._closing.wait(FLUSH_SECONDS):
            with contextlib.suppress(Exception):  # a full disk may have room again; of all else the next step hears
                if self._told:
                    with self._lock:
                        self._flush()
                now = time.monotonic()
                if now - looked > awake.GAP_SECONDS:  # the process stood still, and the work with it
                    self._last_work = min(now, self._last_work + now - looked)
                looked = now
                if now - self._last_line >= self._heartbeat_seconds * 0.9:
                    idle = round(now - self._last_work, 1)
                    self._write(LineKind.PROGRESS, self._progress | {"idle_seconds": idle}, is_work=False)


def encoded(n: int, kind: LineKind, step: int, t: float, data: Mapping[str, Any]) -> bytes:
    """A line of the journal."""
    line = Line(n=n, t=t, kind=kind, step=step, data=strict(data))
    text = json.dumps(line.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace") + b"\n"


def strict(value: Any) -> Any:
    """The value as strict JSON and Postgres can hold it: numbers that are not finite become words, and NaN stays NaN.

    A model may well answer with the character of number 0, which no text in Postgres can hold.
    """
    if isinstance(value, Mapping):
        return {str(key): strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
