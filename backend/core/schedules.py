"""How the learning rate rises and falls over a run: transformers' schedules as plain arithmetic."""

from __future__ import annotations

import math

from backend.core.recipe import Training

POINTS = 80


def rate_at(training: Training, step: int, total: int) -> float:
    """The learning rate at a step of `total`."""
    warmup = warmup_steps(training, total)
    if training.lr_scheduler_type == "constant":
        return training.learning_rate
    if step < warmup:
        return training.learning_rate * step / max(1, warmup)
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    match training.lr_scheduler_type:
        case "cosine":
            return training.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        case "linear":
            return training.learning_rate * (1 - share)
        case _:
            return training.learning_rate


def warmup_steps(training: Training, total: int) -> int:
    """A count, or below 1 a share of all steps."""
    wanted = training.warmup_steps
    return int(wanted) if wanted >= 1 else math.ceil(total * wanted)


def to_come(training: Training, total: int) -> list[tuple[int, float]]:
    """The whole schedule as (step, rate), close enough together to be drawn: its corner is always among them."""
    steps = {round(total * number / POINTS) for number in range(POINTS + 1)} | {
        min(total, warmup_steps(training, total))
    }
    return [(step, rate_at(training, step, total)) for step in sorted(steps)]
