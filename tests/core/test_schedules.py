"""The learning rate that is drawn ahead is the one that comes."""

from __future__ import annotations

import pytest

from backend.core import schedules
from backend.core.recipe import Training


def test_the_schedule_to_come_is_that_of_transformers() -> None:
    import torch
    from transformers import get_scheduler

    for kind in ("cosine", "linear", "constant", "constant_with_warmup"):
        training = Training(learning_rate=0.5, lr_scheduler_type=kind, warmup_steps=0.1)
        unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        shape = get_scheduler(kind, unused, schedules.warmup_steps(training, 50), 50).lr_lambdas[0]
        for step, rate in schedules.to_come(training, 50):
            assert rate == pytest.approx(0.5 * shape(step)), (kind, step)


def test_a_drawn_schedule_has_its_ends_and_its_corner() -> None:
    steps = [step for step, _ in schedules.to_come(Training(learning_rate=1.0, warmup_steps=17), 1000)]
    assert (steps[0], steps[-1]) == (0, 1000)
    assert 17 in steps
