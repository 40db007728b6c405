"""Functions that the tests of the limited process run in it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from backend.core.errors import NotFound, Problem
from backend.core.limited import foretell, report


def double(payload: dict[str, Any]) -> Any:
    print("a library that prints")
    return {"doubled": payload["value"] * 2}


def environment(_payload: dict[str, Any]) -> Any:
    return sorted(os.environ)


def warm() -> None:
    os.environ["WARMED"] = "yes"


def who(_payload: dict[str, Any]) -> Any:
    """The process that this runs in."""
    held = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return {"pid": os.getpid(), "is_warm": "WARMED" in os.environ, "held": held}


def counts(payload: dict[str, Any]) -> Any:
    for number in range(payload["to"]):
        report({"done": number})
    return "counted"


def sleeps_with_a_child(_payload: dict[str, Any]) -> Any:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    report({"pids": [os.getpid(), child.pid]})
    time.sleep(60)


def refuses(_payload: dict[str, Any]) -> Any:
    problems = (Problem("a.b", "first", "row 1"), Problem("c.d", "second", "row 2", "try this"))
    raise NotFound("Not there.", hint="Look.", where="row 1", code="special", problems=problems)


def allocates(payload: dict[str, Any]) -> Any:
    return len(bytearray(payload["mib"] << 20))


def maps_shared_memory(payload: dict[str, Any]) -> Any:
    """Shared anonymous memory is no data segment: only the watch on the resident size sees it."""
    import mmap

    block = mmap.mmap(-1, payload["mib"] << 20)
    for start in range(0, len(block), 4096):
        block[start] = 1
    time.sleep(30)


def crashes(_payload: dict[str, Any]) -> Any:
    return ctypes.string_at(0)


def foretells(payload: dict[str, Any]) -> Any:
    """Says what one signal would mean, and is ended by another or by that."""
    foretell(signal.SIGPROF, NotFound("It would never have ended.", code="special"))
    os.kill(os.getpid(), payload["signal"])


def fails(_payload: dict[str, Any]) -> Any:
    return os.environ["ABSENT"]


def fails_at_length(payload: dict[str, Any]) -> Any:
    raise ValueError("x" * payload["characters"])


def fills_the_disk(_payload: dict[str, Any]) -> Any:
    return Path("/dev/full").write_bytes(b"x")


def gives_up(_payload: dict[str, Any]) -> Any:
    """Counts more ways of reading a word than a library in Rust is willing to."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex("(a|aa)+$"), "isolated").pre_tokenize_str("a" * 60 + "!")


def babbles(payload: dict[str, Any]) -> Any:
    return "x" * (payload["mib"] << 20)


def writes(payload: dict[str, Any]) -> Any:
    try:
        Path(payload["path"]).write_bytes(b"x" * payload["bytes"])
    except OSError as error:
        return error.errno
    return 0
