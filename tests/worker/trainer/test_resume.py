"""A run that was killed and resumed is the run that was never disturbed: same losses, samples and weights, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.trainers import KILLED
from tests.worker.trainer.conftest import Attempts

METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4, "lora_dropout": 0.05, "use_dora": True},
    "qlora": {"kind": "qlora", "r": 4, "lora_dropout": 0.05},
}
# Micro-batch 20 is the second of the three of step 7; step 8 is saved after evaluation and samples.
DEATHS = {"micro-step:20": 4, "saving:8": 4}


def weights(folder: Path) -> bytes:
    return next(folder.glob("*model.safetensors")).read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_exactly_as_if_nothing_had_happened(attempts: Attempts, method: str) -> None:
    recipe = {"method": METHODS[method]}
    whole = attempts(recipe)
    assert whole.run() == 0
    for death, last_saved in DEATHS.items():
        killed = attempts(recipe)
        assert killed.run(die=death) == KILLED
        assert killed.saved_steps == [last_saved]
        resumed = attempts(recipe, resume=killed.checkpoint(last_saved))
        assert resumed.run() == 0
        assert set(resumed.losses()) == set(range(last_saved + 1, 11)), "steps neither repeat nor lack"
        before = {key: value for key, value in killed.history().items() if key[0] <= last_saved}
        assert before | resumed.history() == whole.history()
        assert weights(resumed.checkpoint(10).folder) == weights(whole.checkpoint(10).folder)
