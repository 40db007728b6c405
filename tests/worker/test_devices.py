"""Who else computes on an accelerator is found, named, and never silently shared with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backend.core.models import Worker
from tests.support.hosts import Lab
from tests.support.processes import wait_until
from worker import devices
from worker.devices import Occupant
from worker.spares import OwnProcesses

PLACES = ["0, 00000000:3B:00.0", "1, 00000000:5E:00.0"]
DRIVER = """#!/bin/sh
if [ -e {fault} ]; then sh {fault}; exit 9; fi
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


def test_a_stranger_is_one_even_where_the_driver_does_not_tell_its_number() -> None:
    found = devices.strangers(PLACES, ["00000000:5E:00.0, [N/A], [N/A], [Not Found]"], own={99})
    assert found == {"cuda:1": (Occupant(0, "[Not Found]", 0),)}
    assert devices.shared("cuda:1", found["cuda:1"]) == "cuda:1 is in use by [Not Found]."


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
    assert devices.Driver().occupants(set()) == {}


def stand_in(folder: Path) -> tuple[Path, Path]:
    """The driver's own program is stood in for: no GPU is needed to see what a host makes of its words. The files are which
    processes it tells of, and, while there is one, what it does before it fails."""
    processes, fault, program = folder / "processes", folder / "fault", folder / "nvidia-smi"
    processes.write_text("")
    program.write_text(DRIVER.format(processes=processes, fault=fault))
    program.chmod(0o755)
    return processes, fault


def test_a_driver_that_stumbles_at_the_start_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _processes, fault = stand_in(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(devices, "PAUSE_SECONDS", 0.01)
    fault.write_text(f"rm {fault}")
    assert [device.name for device in devices.found("auto", devices.Driver())] == ["cuda:0"]


def test_a_driver_that_never_answers_leaves_the_cpu_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _processes, fault = stand_in(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(devices, "PAUSE_SECONDS", 0.01)
    fault.write_text("echo The driver is not loaded.")
    assert [device.name for device in devices.found("auto", devices.Driver())] == ["cpu"]
    assert "no GPU is used: The driver's nvidia-smi failed (code 9)" in caplog.text


def test_a_driver_that_hangs_and_takes_no_kill_is_left_behind_and_asked_again_when_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _processes, fault = stand_in(tmp_path)
    asked = tmp_path / "asked"
    fault.write_text(f"echo $$ >> {asked}; exec sleep 30")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _: None)
    monkeypatch.setattr(devices, "ANSWER_SECONDS", 2.0)
    driver = devices.Driver()
    for words in ("does not answer", "hangs"):
        with pytest.raises(devices.Unanswered, match=words):
            driver.occupants(set())
    fault.unlink()
    monkeypatch.setattr(devices, "ANSWER_SECONDS", 60.0)
    (hung,) = asked.read_text().split()
    os.kill(int(hung), signal.SIGKILL)
    wait_until(lambda: answers(driver), seconds=30, what="the driver to be asked again")


def answers(driver: devices.Driver) -> bool:
    with suppress(devices.Unanswered):
        return driver.occupants(set()) == {}
    return False


def facts_of(lab: Lab) -> dict[str, Any]:
    """What the host tells of itself."""
    with lab.sessions.begin() as session:
        return dict(session.get_one(Worker, "a").facts)


def test_nobody_is_given_an_accelerator_of_which_the_driver_does_not_tell_who_is_on_it(
    lab: Lab, tmp_path: Path
) -> None:
    _processes, fault = stand_in(tmp_path)
    lab.environment |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "STUDIO_DEVICES": "auto"}
    with lab.host():
        lab.wait(lambda: "watches NVIDIA H100" in lab.logs(), "the host to find its GPU", 60)
        fault.write_text("")
        lab.wait(lambda: "no run is started on cuda:0" in lab.logs(), "the host to miss the driver's answer", 60)
        run_id = lab.launch()
        lab.wait(lambda: facts_of(lab)["silent"] == ["cuda:0"], "the host to tell of it", 60)
        time.sleep(2)
        assert lab.run(run_id).attempt == 0
        fault.unlink()
        lab.wait(lambda: lab.run(run_id).attempt == 1, "the claim", 60)
    assert lab.logs().count("no run is started on cuda:0") == 1, "it is said once"


def test_a_stranger_on_a_shared_accelerator_keeps_it_from_nothing_and_is_not_told_as_if_it_did(
    lab: Lab, tmp_path: Path
) -> None:
    processes, _fault = stand_in(tmp_path)
    processes.write_text("00000000:3B:00.0, 4711, 12288, vllm\n")
    lab.environment |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "STUDIO_DEVICES": "auto", "STUDIO_SHARE_DEVICES": "true"}
    with lab.host():
        run_id = lab.launch()
        lab.wait(
            lambda: any("is in use by vllm" in text for text in lab.logged(run_id)), "the run to be told of it", 60
        )
        assert facts_of(lab)["strangers"] == {}


def test_an_accelerator_with_a_stranger_on_it_is_given_no_run_until_it_is_free(lab: Lab, tmp_path: Path) -> None:
    processes, _fault = stand_in(tmp_path)
    processes.write_text("00000000:3B:00.0, 4711, 12288, vllm\n")
    lab.environment |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "STUDIO_DEVICES": "auto"}
    with lab.host():
        run_id = lab.launch()
        lab.wait(lambda: "cuda:0 is in use by vllm (process 4711, 12.0 GiB)" in lab.logs(), "the name", 60)
        stranger = {"pid": 4711, "name": "vllm", "memory_bytes": 12 << 30}
        assert facts_of(lab)["strangers"] == {"cuda:0": [stranger]}
        assert lab.run(run_id).attempt == 0
        processes.write_text("")
        lab.wait(lambda: lab.run(run_id).attempt == 1, "the claim", 60)
