"""Who else computes on an accelerator is found, named, and never silently shared with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from backend.core.models import Worker
from tests.support.hosts import Lab
from worker import devices
from worker.devices import Occupant
from worker.spares import OwnProcesses

PLACES = ["0, 00000000:3B:00.0", "1, 00000000:5E:00.0"]
DRIVER = """#!/bin/sh
case "$1" in
  --query-gpu=index,name,memory.total) echo "0, NVIDIA H100, 81559" ;;
  --query-gpu=index,pci.bus_id) echo "0, 00000000:3B:00.0" ;;
  *) cat {processes} ;;
esac
"""


def test_each_stranger_is_named_on_its_device() -> None:
    told = ["00000000:5E:00.0, 4711, 12288, python -m worker.trainer, old", "00000000:3B:00.0, 12, [N/A], [Not Found]"]
    found = devices.strangers(PLACES, told, own={99})
    assert found == {
        "cuda:1": (Occupant(4711, "python -m worker.trainer, old", 12 << 30),),
        "cuda:0": (Occupant(12, "[Not Found]", 0),),
    }
    assert devices.shared("cuda:1", found["cuda:1"]) == (
        "cuda:1 is in use by python -m worker.trainer, old (process 4711, 12.0 GiB)."
    )
    assert devices.shared("cuda:0", found["cuda:0"]) == "cuda:0 is in use by [Not Found] (process 12)."


def test_our_own_trainers_are_no_strangers() -> None:
    assert devices.strangers(PLACES, ["00000000:5E:00.0, 4711, 12288, python"], own={4711}) == {}
    assert devices.shared("cuda:1", ()) == ""


def test_a_trainer_is_known_after_its_end_until_somebody_else_has_its_number() -> None:
    own = OwnProcesses()
    with subprocess.Popen(["/bin/sleep", "60"]) as trainer:
        own.note(trainer.pid)
        assert trainer.pid in own
        assert os.getpid() not in own
        trainer.kill()
    assert trainer.pid in own, "a driver lists it a moment longer"
    own.note(os.getpid())
    own._started[os.getpid()] = "that of an earlier process with this number"
    assert os.getpid() not in own


def test_without_a_driver_there_is_nobody() -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    assert devices.occupants(set()) == {}


def test_an_accelerator_with_a_stranger_on_it_is_given_no_run_until_it_is_free(lab: Lab, tmp_path: Path) -> None:
    """The driver's own program is stood in for: no GPU is needed to see what a host makes of its words."""
    processes, program = tmp_path / "processes", tmp_path / "nvidia-smi"
    processes.write_text("00000000:3B:00.0, 4711, 12288, vllm\n")
    program.write_text(DRIVER.format(processes=processes))
    program.chmod(0o755)
    lab.environment |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "STUDIO_DEVICES": "auto"}
    with lab.host():
        run_id = lab.launch()
        lab.wait(lambda: "cuda:0 is in use by vllm (process 4711, 12.0 GiB)" in lab.logs(), "the name", 60)
        with lab.sessions.begin() as session:
            worker = session.get_one(Worker, "a")
        stranger = {"pid": 4711, "name": "vllm", "memory_bytes": 12 << 30}
        assert worker.facts["strangers"] == {"cuda:0": [stranger]}
        assert lab.run(run_id).attempt == 0
        processes.write_text("")
        lab.wait(lambda: lab.run(run_id).attempt == 1, "the claim", 60)
