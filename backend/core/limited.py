"""Run a function that reads what strangers wrote in a process with limits, so that a hostile file kills that process alone.

The process serves one request, leads a session of its own and knows no credentials. It gets one JSON request on its
standard input and answers in JSON lines. Memory is bounded by `RLIMIT_DATA` and by a watch on the resident size
(`RLIMIT_AS` makes pyarrow hang), time by a kill from outside, and nothing outlives the caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import IO, Any

from backend.core import errors
from backend.core.awake import Awake
from backend.core.errors import Conflict, Invalid, Problem, StudioError, disk_full, has_no_room, is_failure, sayable
from backend.core.spare import Spare

log = logging.getLogger(__name__)

PACKAGES = ("backend.core.", "worker.")
"""Only functions under these names are run."""

WARMED, WARM = "backend.core.rendering.", "backend.core.rendering.preview:warm"
"""The functions that a spare is kept for, and what it calls before it waits."""

MIB = 1 << 20
PAGE = resource.getpagesize()
WATCH_SECONDS = 0.05
COMPLAINT_BYTES = 8192
DEATH_SECONDS = 1.0
"""Until a process whose pipes are closed has ended, if it ever does."""
BAD_ALLOC = "bad_alloc"
"""What C++ says where Python says `MemoryError`."""
PR_SET_PDEATHSIG = 1
ROOT = Path(__file__).resolve().parents[2]
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TZ", "SYSTEMROOT", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
SMALL = {
    "OMP_NUM_THREADS": "1",  # each thread's stack counts as data, and a big host would start hundreds
    "ARROW_IO_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
    "HF_HUB_OFFLINE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
}

Report = Callable[[dict[str, Any]], None]

is_ending: ContextVar[Callable[[], bool]] = ContextVar("is_ending", default=lambda: False)
"""Whether the caller's own process is ending: it would wait for its threads, and they for what they read."""


def run_limited(
    function: str,
    payload: dict[str, Any],
    *,
    memory_mib: int = 1024,
    timeout_seconds: float = 60,
    output_mib: int = 32,
    file_mib: int = 0,
    environment: Mapping[str, str] | None = None,
    on_progress: Report | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Any:
    """What `package.module:function` returns for `payload`, both plain JSON.

    `file_mib` bounds each file that it writes; by default it writes none. `environment` is for what must reach beyond this
    host: by default it knows no token, no proxy and no home. It may call `report({...})`, which arrives at
    `on_progress`. Blocks: asynchronous callers use `asyncio.to_thread`.

    Raises what the function raised where that is a `StudioError`, with all its problems; `Unstorable` where the disk
    was full; `Invalid` in words where it needed too much memory, time or output, died or raised anything else, whose trace
    is in the log; `Conflict` (code `cancelled`) once `cancelled()` is true.
    """
    if not function.startswith(PACKAGES):
        raise ValueError(f"{function} lies outside {PACKAGES}")
    limits = {"memory_mib": memory_mib, "file_mib": file_mib}
    request = json.dumps({"function": function, "payload": payload, **limits, "parent": os.getpid()}).encode()
    is_warm = function.startswith(WARMED) and not environment
    process = (_spare.take() if _spare and is_warm else None) or _started(environment=environment)
    try:
        _ask(process, request)
        return _Conversation(process, memory_mib, timeout_seconds, output_mib, on_progress, cancelled).answer()
    finally:
        _kill(process)
        if _spare:
            _spare.want()


@contextlib.contextmanager
def spare_kept() -> Iterator[None]:
    """Within, this process keeps a spare for what is read through a model, from the first time that it has anything read.
    What it reads must have ended before this does."""
    global _spare
    _spare = kept = Spare(partial(_started, f"serve(warm={WARM!r}, parent={os.getpid()})"), _kill)
    try:
        yield
    finally:
        _spare = None
        kept.close()


_spare: Spare | None = None


def _started(call: str = "serve()", environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    known = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-c", f"from backend.core.limited import serve; {call}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=known | SMALL | dict(environment or {}),
        start_new_session=True,
    )


def _ask(process: subprocess.Popen[bytes], request: bytes) -> None:
    """It takes all of it before it does anything, so that this does not block."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # one that died says so by its answer
        process.stdin.write(request)


class _Conversation:
    """The parent's side: reads the answer, and watches memory, time and the wish to stop meanwhile."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        memory_mib: int,
        timeout_seconds: float,
        output_mib: int,
        on_progress: Report | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.process, self.memory_mib, self.timeout_seconds = process, memory_mib, timeout_seconds
        self.output_mib, self.on_progress, self.cancelled = output_mib, on_progress, cancelled
        self.is_ending = is_ending.get()
        self.unfinished, self.unfinished_bytes = list[bytes](), 0
        self.complaint = bytearray()
        self.final: dict[str, Any] | None = None
        self.foretold: dict[int, dict[str, Any]] = {}

    def answer(self) -> Any:
        self._listen()
        if self.final is None:
            raise self._death()
        if "trace" in self.final:
            log.error("a limited process met what nobody foresaw:\n%s", self.final["trace"])
        if "error" in self.final:
            raise _error_from(self.final["error"])
        return self.final["result"]

    def _listen(self) -> None:
        """Read until the answer is here: an interpreter takes tenths of a second to end by itself. Of a process that gives none,
        until both pipes close. Raises as soon as a limit is passed."""
        awake = Awake()
        output, complaints = self.process.stdout, self.process.stderr
        assert output is not None
        assert complaints is not None
        with selectors.DefaultSelector() as waiting, output, complaints:
            waiting.register(output, selectors.EVENT_READ, self._take_output)
            waiting.register(complaints, selectors.EVENT_READ, self._take_complaint)
            while self.final is None and waiting.get_map():
                for key, _ in waiting.select(WATCH_SECONDS):
                    block = os.read(key.fd, 65536)
                    key.data(block) if block else waiting.unregister(key.fileobj)
                self._check(awake.look())

    def _check(self, seconds: float) -> None:
        if seconds > self.timeout_seconds:
            raise Invalid(
                f"Reading took longer than {self.timeout_seconds:g} s and was stopped.",
                hint="A file of data can be split into smaller ones.",
                code="limited.time",
            )
        if self.is_ending() or (self.cancelled is not None and self.cancelled()):
            raise Conflict("It was cancelled.", code="cancelled")
        if resident_mib(self.process.pid) > self.memory_mib:
            raise _too_much_memory(self.memory_mib)

    def _take_output(self, block: bytes) -> None:
        """Each block is searched once, and joined once to what is unfinished: an answer may have hundreds of them."""
        self.unfinished_bytes += len(block)
        if self.unfinished_bytes > self.output_mib * MIB:
            raise Invalid(f"The answer is longer than {self.output_mib} MiB.", code="limited.output")
        *ends, rest = block.split(b"\n")
        for end in ends:
            self._hear(json.loads(b"".join([*self.unfinished, end])))
            self.unfinished, self.unfinished_bytes = [], len(rest)
        self.unfinished.append(rest)

    def _hear(self, message: dict[str, Any]) -> None:
        if "foretold" in message:
            self.foretold[message["signal"]] = message["foretold"]
        elif "progress" not in message:
            self.final = message
        elif self.on_progress is not None:
            self.on_progress(message["progress"])

    def _take_complaint(self, block: bytes) -> None:
        self.complaint = (self.complaint + block)[-COMPLAINT_BYTES:]

    def _death(self) -> StudioError:
        """Why a process that gave no answer died, as far as can be seen from outside."""
        words = self.complaint.decode(errors="replace")
        log.warning("a limited process died: %s", words)
        with contextlib.suppress(subprocess.TimeoutExpired):
            foretold = self.foretold.get(-self.process.wait(DEATH_SECONDS))
            if foretold is not None:
                return _error_from(foretold)
        if BAD_ALLOC in words or "MemoryError" in words:
            return _too_much_memory(self.memory_mib)
        return Invalid(
            "The reading process crashed: the file is damaged or hostile.",
            hint="A file of data can be written anew with another program.",
            code="limited.crash",
        )


def resident_mib(pid: int) -> float:
    """Memory that belongs to the process alone. Pages of mapped files are not counted; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    kib = [int(line.split()[1]) for line in status.splitlines() if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(kib) / 1024


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started. Its group lives as long as the leader is not waited for."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _too_much_memory(memory_mib: int) -> Invalid:
    return Invalid(
        f"Reading needed too much memory (more than {memory_mib} MiB).",
        hint="It may be damaged or hostile; else a file of data can be split into smaller ones.",
        code="limited.memory",
    )


_ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, StudioError)
}


def _error_from(told: dict[str, Any]) -> StudioError:
    """The error that the function raised, of the same class, with all its problems."""
    kind = _ERRORS.get(told.pop("class"), Invalid)
    problems = tuple(Problem(**problem) for problem in told.pop("problems"))
    return kind(told.pop("message"), **told, problems=problems)


# ---- the child's side ----


def serve(warm: str = "", parent: int = 0) -> None:
    """Carry out the one request on standard input. The limits hold before anything of the request's own is imported; what is
    warmed before is the same for all, and one whose request never comes ends with its parent."""
    global _answers
    if warm:
        _die_with(parent)
        _function(warm)()
    text = sys.stdin.read()
    if warm and not text:
        return
    request = json.loads(text)
    _die_with(request["parent"])
    _limit(request["memory_mib"], request["file_mib"])
    _answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is a complaint, never an answer
    _say(_outcome(request["function"], request["payload"]))


def report(progress: dict[str, Any]) -> None:
    """Tell the caller of `run_limited` how far this is. Does nothing where the function was called directly."""
    if _answers is not None:
        _say({"progress": progress})


def foretell(by: signal.Signals, why: StudioError) -> None:
    """Tell the caller of `run_limited` why this process ends, should this signal end it: then it can say nothing more."""
    if _answers is not None:
        _say({"foretold": _told(why), "signal": by})


_answers: IO[str] | None = None


def _say(message: dict[str, Any]) -> None:
    assert _answers is not None
    _answers.write(json.dumps(message) + "\n")
    _answers.flush()


def _outcome(function: str, payload: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": _function(function)(payload)}
    except StudioError as error:
        return {"error": _told(error)}
    except MemoryError:
        return {"error": _told(_too_much_memory(resource.getrlimit(resource.RLIMIT_DATA)[0] // MIB))}
    except BaseException as error:
        if not is_failure(error):
            raise
        if has_no_room(error):
            return {"error": _told(disk_full())}
        return {"error": _told(_fault(error)), "trace": _trace()}


def _fault(error: BaseException) -> Invalid:
    """What people are told of an error that none of our readers foresaw. It may quote anything, so its own words are for the
    log alone."""
    return Invalid(
        f"The studio has a fault that kept it from reading this ({type(error).__name__}).",
        hint="Whoever runs the studio finds more in its log, and can report it. Other files and models can still be read.",
        code="limited.failed",
    )


def _trace() -> str:
    """Of the error at hand. Of one that says very much, the places where it came by and its last words."""
    whole = sayable(traceback.format_exc())
    if len(whole) <= COMPLAINT_BYTES:
        return whole
    return f"{whole[: COMPLAINT_BYTES // 2]} … {whole[-COMPLAINT_BYTES // 2 :]}"


def _function(path: str) -> Callable[..., Any]:
    module, name = path.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _told(error: StudioError) -> dict[str, Any]:
    """The error as JSON that `_error_from` takes."""
    problems = [vars(problem) for problem in error.problems]
    told = {"class": type(error).__name__, "message": error.message, "hint": error.hint, "where": error.where}
    return {**told, "code": error.code, "problems": problems}


def _limit(memory_mib: int, file_mib: int) -> None:
    for kind, value in (
        (resource.RLIMIT_DATA, memory_mib * MIB),
        (resource.RLIMIT_FSIZE, file_mib * MIB),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # a system that refuses one limit still has the parent's watch
            resource.setrlimit(kind, (wanted, wanted))


@contextlib.contextmanager
def at_most_more(mib: int) -> Iterator[None]:
    """Within, this process gets at most so much memory beside what it has: asking for more raises `MemoryError`. Where the
    system does not tell what it has, or a tighter limit holds already, nothing changes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = _data_bytes() + mib * MIB
    if allowed == mib * MIB or (soft != resource.RLIM_INFINITY and soft <= allowed):
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    try:
        yield
    except SystemError as error:  # the interpreter found no memory for the very error that was to say so
        raise MemoryError from error
    except RuntimeError as error:  # a library in C++ did not, and torch hands that on as a plain error
        if BAD_ALLOC in str(error):
            raise MemoryError from error
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """What counts against `RLIMIT_DATA`; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as told:  # without a buffer: this is asked before every row
            return int(told.read().split()[5]) * PAGE
    except OSError:
        return 0


def _die_with(parent: int) -> None:
    """End when the parent does. On Linux the kernel sees to it: the thread that started us waits for our end, so its
    death is the parent's. Elsewhere a thread of our own looks."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before we began to look
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
