"""What a trainer is started with, as the kernel shows it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backend.core.settings import Settings
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
        environment = Path(f"/proc/{trainer.process.pid}/environ").read_text()
    finally:
        trainer.kill()
    assert CANARY not in environment
    assert "TOKENIZERS_PARALLELISM=kept" in environment
    assert f"STUDIO_HOME={tmp_path}" in environment
