"""Start a process that cannot outlive us, whatever ends us.

Linux has a signal for the death of a parent. It fires when the *thread* that started the child ends, so children are
started from the main thread alone. Elsewhere a small guard process watches a pipe that closes when we die.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, Signals
from typing import IO

PR_SET_PDEATHSIG = 1
HAS_DEATH_SIGNAL = sys.platform == "linux"

# Loaded here because the moment between fork and exec is no place to import or to allocate.
_libc = ctypes.CDLL(None) if HAS_DEATH_SIGNAL else None


def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    log: Path,
    on_our_death: Signals = SIGKILL,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    uid: int | None = None,
    guarded: bool = not HAS_DEATH_SIGNAL,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, its output appended to `log`.

    `on_our_death` is what it receives when this process ends in any way. `uid` is the user and group it becomes.
    `guarded` chooses the pipe over the death signal.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a child must be started from the main thread: its death signal fires when the thread ends")
    command = [os.fspath(part) for part in argv]
    pipe = (-1, -1)
    if guarded:
        pipe = os.pipe()
        command = [sys.executable, "-m", "backend.embedded.guard", str(pipe[0]), on_our_death.name, *command]
        pass_fds = (*pass_fds, pipe[0])
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the children in order
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            preexec_fn=None if guarded else _dies_with(os.getpid(), on_our_death),
        )
    if guarded:
        os.close(pipe[0])  # the other end stays open until this process is gone, and that is its whole purpose
    return process


def _dies_with(parent: int, signal: Signals) -> Callable[[], None]:
    """What the child does before exec. It runs after the change of user, which would clear the death signal."""

    def bind() -> None:
        assert _libc is not None
        _libc.prctl(PR_SET_PDEATHSIG, int(signal))
        if os.getppid() != parent:  # the parent died before the call took effect
            os._exit(1)

    return bind
