"""What the embedded services share: a running one, its environment and its last words."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals


@dataclass(frozen=True)
class Service:
    """A process of ours and the URL under which it is reached."""

    process: subprocess.Popen[bytes]
    url: str
    stop_signal: Signals = SIGTERM

    def stop(self, *, timeout_seconds: float = 20.0) -> None:
        """End it in order, and by force where it does not end in time."""
        stop_process(self.process, self.stop_signal, timeout_seconds)


def stop_process(process: subprocess.Popen[bytes], signal: Signals, timeout_seconds: float) -> bool:
    """Send `signal`, wait, and kill what is left of it then. Returns whether it ended by itself."""
    if process.poll() is None:
        process.send_signal(signal)
    try:
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def plain_environment() -> dict[str, str]:
    """What a service may know of ours: where programs are. Variables such as PGDATA or LANG would change what it does."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def last_words(log: Path, limit: int = 600) -> str:
    """The end of a log file, for the message of an error."""
    if not log.exists():
        return "it wrote nothing"
    return log.read_bytes()[-limit:].decode(errors="replace").strip() or "it wrote nothing"
