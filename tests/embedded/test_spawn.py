"""A child cannot outlive us, by the kernel's death signal or by the guard that watches a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from signal import SIGTERM

import psutil
import pytest

from backend.embedded.service import stop_process
from backend.embedded.spawn import HAS_DEATH_SIGNAL, spawn
from tests.support.processes import processes_of, wait_until

PARENT = """
import os, sys, time
from pathlib import Path
from signal import SIGTERM
from signal import SIGTERM
from backend.embedded.spawn import spawn
home = Path(sys.argv[1])
spawn(["sleep", "60"], env=dict(os.environ, STUDIO_HOME=str(home)), log=home / "log", guarded=sys.argv[2] == "guard",
      on_our_death=SIGTERM)
print("started", flush=True)
time.sleep(60)
"""
WAYS = [
    pytest.param("signal", marks=pytest.mark.skipif(not HAS_DEATH_SIGNAL, reason="this kernel has no death signal")),
    "guard",
]


@pytest.mark.parametrize("way", WAYS)
def test_a_child_ends_when_its_parent_is_killed(home: Path, way: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(home), way], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"started\n"
    wait_until(lambda: any(process.name() == "sleep" for process in processes_of(home)), what="the start")
    parent.kill()
    parent.communicate()
    wait_until(lambda: not processes_of(home), seconds=2, what="the end of the child")


@pytest.mark.parametrize("guarded", [False, True])
def test_a_child_in_a_session_of_its_own_writes_to_its_log_and_tells_its_status(home: Path, guarded: bool) -> None:
    program = "import os; print(os.getsid(0) != int(os.environ['OURS'])); raise SystemExit(7)"
    environment = {**os.environ, "OURS": str(os.getsid(0))}
    process = spawn([sys.executable, "-c", program], env=environment, log=home / "log", guarded=guarded)
    assert process.wait(10) == 7
    assert (home / "log").read_text() == "True\n"


def test_a_guard_passes_on_the_order_to_stop_and_inherited_files(home: Path) -> None:
    read, write = os.pipe()
    program = f"import os, time; os.write({write}, b'here'); time.sleep(60)"
    process = spawn([sys.executable, "-c", program], env=os.environ, log=home / "log", pass_fds=[write], guarded=True)
    assert os.read(read, 4) == b"here"
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
    assert stop_process(process, SIGTERM, 5)
    assert not any(psutil.pid_exists(pid) for pid in family)
    os.close(read)
    os.close(write)


def test_a_thread_may_not_start_a_child(home: Path) -> None:
    raised: list[BaseException] = []

    def start() -> None:
        try:
            spawn(["true"], env={}, log=home / "log")
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])
