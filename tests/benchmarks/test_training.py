"""When two sides are said to have computed the same: the losses of whole runs, and the gradients of the loss head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.loss_head import gradients_apart
from benchmarks.training import CASES, one_row


def runs(*losses: float, rate: float) -> list[dict[str, float]]:
    return [{"loss": loss, "tokens": rate, "seconds": 1.0, "steps": 30} for loss in losses]


@pytest.mark.parametrize(
    ("ours", "theirs", "holds"),
    [
        ((4.95, 4.9, 5.0), (4.91, 4.9, 4.92), True),
        ((4.97, 4.97, 4.97), (4.91, 4.9, 4.92), False),
        ((4.85, 4.85, 4.85), (4.91, 4.9, 4.92), False),
        ((4.85, 4.85, 4.85), (4.91, 4.84, 4.92), True),
    ],
    ids=["by less than 1 %", "higher by more", "lower by more", "lower by no more than TRL's own orders"],
)
def test_losses_are_equal_where_they_lie_no_further_apart_than_what_an_order_is_worth(
    ours: tuple[float, ...], theirs: tuple[float, ...], *, holds: bool
) -> None:
    found = one_row(CASES[0], runs(*ours, rate=3000), runs(*theirs, rate=1000), "trl 1")
    assert (found.ratio, found.holds) == (3, holds)
    assert " % apart, and no more than " in found.beside


def test_gradients_of_one_length_are_compared_value_by_value(tmp_path: Path) -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for name, kept in (("ours", values), ("same", values.clone()), ("turned", values.flip(0).clone())):
        save_file({"gradient": kept}, tmp_path / name)
    assert values.flip(0).norm() == values.norm()
    assert gradients_apart(tmp_path / "ours", tmp_path / "same") == 0
    assert gradients_apart(tmp_path / "turned", tmp_path / "ours") == 0.5
