"""Which machine this is."""

from __future__ import annotations

import socket
from pathlib import Path


def machine() -> str:
    """This machine, from its start to its next. Containers that share it are one machine, a copy of it is another."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()
