"""What the model card tells beside the recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.core.assignment import Amendment
from tests.worker.exports.runs import finished_run
from worker.exports.card import card

pytestmark = pytest.mark.usefixtures("one_kernel")


def test_changes_in_mid_run_are_listed_with_the_step_that_they_held_from(tiny_base: Path, tmp_path: Path) -> None:
    context = finished_run(tiny_base, tmp_path, {"kind": "lora", "r": 4})
    change = Amendment(sequence=1, field="training.learning_rate", value=5e-5, step=7)
    assert "Changed in mid-run" not in card(context, "adapter", {})
    text = card(replace(context, changes=(change,)), "adapter", {})
    assert "## Changed in mid-run" in text
    assert "| 7 | training.learning_rate | 5e-05 |" in text
