"""What a trainer is started with, and when, as the kernel shows it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from backend.core.models import State
from backend.core.settings import Settings
from tests.support.hosts import Lab
from tests.support.processes import wait_until
from worker.spares import Trainer

CANARY = "canary-4711"
SECRET_NAMES = [
    "DATABASE_URL",
    "REDIS_URL",
    "PGPASSWORD",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "STUDIO_TOKEN",
    "WANDB_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_SECRET",
]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which Linux alone has")
def test_a_trainer_is_given_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRET_NAMES:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "kept")
    trainer = Trainer(Settings(home=tmp_path))
    try:
        told = Path(f"/proc/{trainer.process.pid}/environ")
        wait_until(told.read_text, seconds=30, what="its environment, which is empty while it is made")
        environment = told.read_text()
    finally:
        trainer.kill()
    assert CANARY not in environment
    assert "TOKENIZERS_PARALLELISM=kept" in environment
    assert f"STUDIO_HOME={tmp_path}" in environment


def trainers(host: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in psutil.Process(host.pid).children() if child.status() != psutil.STATUS_ZOMBIE]


def test_no_spare_is_started_while_a_run_waits_for_its_trainer_to_import(lab: Lab) -> None:
    lab.environment["STUDIO_SPARE_SECONDS"] = str(rest_seconds := 1.0)
    with lab.host() as host:
        (spare,) = lab.wait(lambda: trainers(host), "the spare", 30)
        run_id = lab.launch()
        spare.kill()
        lab.wait_for(run_id, State.PREPARING)
        lab.wait(lambda: len(trainers(host)) == 1 and trainers(host) != [spare], "a trainer that starts cold", 30)
        trainers(host)[0].send_signal(signal.SIGSTOP)
        time.sleep(rest_seconds + 1)
        assert len(trainers(host)) == 1
        trainers(host)[0].send_signal(signal.SIGCONT)
        lab.wait(lambda: len(trainers(host)) == 2, "a spare once the run goes on", 60)
