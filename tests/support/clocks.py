"""Machines whose clocks are wrong."""

from __future__ import annotations

from pathlib import Path

SHIFTED = """
import datetime, os, time, time_machine
shift = datetime.timedelta(hours=float(os.environ["CLOCK_HOURS"]))
time_machine.travel(datetime.datetime.now(datetime.UTC) + shift, tick=True).start()
time.time()
"""
"""Such a clock starts to tick at the first look at it."""


def wrong_clock(folder: Path, hours: float) -> dict[str, str]:
    """What a process finds in its environment that is to read a wrong clock, and with it all that it starts."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SHIFTED)
    return {"PYTHONPATH": str(folder), "CLOCK_HOURS": str(hours)}
