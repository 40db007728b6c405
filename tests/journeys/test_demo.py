"""`studio demo`, as `make demo` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from backend.commands.demo import free_port, steps_told
from backend.core.settings import Settings
from backend.embedded.studio import listen
from tests.support.processes import processes_of
from tests.support.studios import ROOT


@pytest.mark.timeout(600)
def test_the_demonstration_ends_in_a_proved_model_and_stops_everything() -> None:
    with tempfile.TemporaryDirectory(prefix="fts-", dir="/tmp") as folder:
        wanted = {"STUDIO_HOME": folder, "STUDIO_DEMO_EXIT": "1", "STUDIO_DEVICES": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}
        environment = {key: value for key, value in os.environ.items() if not key.endswith("_URL")} | wanted
        command = [sys.executable, "-m", "backend.cli", "demo"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["state"] == "succeeded"
        assert report["first_loss"] >= 10 * report["last_loss"]
        assert report["quantised_layers"] > 0
        assert report["merge_max_logit_diff"] < 1e-3
        assert report["samples"] > 3
        assert (Path(report["adapter"]) / "adapter_model.safetensors").is_file()
        assert (Path(report["merged"]) / "model.safetensors").is_file()
        assert "after   Ahoy!" in done.stdout, "what the model says has changed visibly"
        assert not processes_of(Path(folder))


def test_a_port_that_somebody_has_is_left_to_them() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert free_port(Settings(host="127.0.0.1", port=port)) == 0
    assert free_port(Settings(host="127.0.0.1", port=port)) == port


def test_how_far_the_base_model_is_is_read_from_what_its_maker_wrote(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a warning 1/2 of something\n\r1/300\r2/300")
    assert steps_told(log) == (2, 300)
    log.write_bytes(b"")
    assert steps_told(log) == (0, None)
