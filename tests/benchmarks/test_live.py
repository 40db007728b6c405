"""What the benchmark of live charts does to the web that it measures, and what it takes for seen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.live import CHARTS, FIRST, Drawn, hold_to_one_core, page_ages, threads
from benchmarks.logging_call import NAMES

THREADS = 4
PROGRAM = f"""
import threading
for _ in range({THREADS - 1}):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
input()
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("more", flush=True)
input()
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core alone")
def test_every_thread_of_the_web_is_held_to_one_core_and_those_that_it_starts_later() -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        hold_to_one_core(process.pid)
        held = [os.sched_getaffinity(each) for each in threads(process.pid)]
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "more\n"
        later = [os.sched_getaffinity(each) for each in threads(process.pid)]
        process.kill()
    assert (held, later) == ([{0}] * THREADS, [{0}] * (THREADS + 1))


STAMPS = {step: float(step) for step in range(1, FIRST + 3)}


def drawn(chart: str, *, late: float = 0.1) -> list[Drawn]:
    return [(chart, step, (stamp + late) * 1e3) for step, stamp in STAMPS.items()]


def test_a_step_is_as_old_as_it_is_in_the_last_chart() -> None:
    slow, *others = sorted(CHARTS)
    seen = [*drawn(slow, late=0.5), *(each for chart in others for each in drawn(chart))]
    assert page_ages(seen, STAMPS) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("chart", sorted(CHARTS))
@pytest.mark.parametrize("points", [(), (0,)], ids=["never seen", "seen without a point"])
def test_a_chart_that_draws_nothing_is_no_faster_for_it(chart: str, points: tuple[int, ...]) -> None:
    seen = [each for other in CHARTS - {chart} for each in drawn(other)]
    seen += [(chart, count, 1e3) for count in points]
    with pytest.raises(AssertionError, match="these alone have drawn anything"):
        page_ages(seen, STAMPS)


def test_every_chart_is_told_something_at_each_step() -> None:
    assert [chart for chart in CHARTS if not set(chart.split()) & set(NAMES)] == []
