"""What the benchmark of live charts does to the web that it measures."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.live import hold_to_one_core, threads

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
