"""How long a run takes: from what earlier runs of the same kind were measured at, else from arithmetic and a data sheet."""

from __future__ import annotations

import re
from statistics import median
from typing import TYPE_CHECKING

from sqlalchemy import Float, func, select
from sqlalchemy.orm import Session

from backend.core.memory import Shape, recomputes, resolve_precision, row_length
from backend.core.models import Attempt, Device, Run

if TYPE_CHECKING:
    from backend.core.recipe import Recipe

RUNS_REMEMBERED = 5
USEFUL_SHARE = 0.35
"""What of a data sheet's figure a training step reaches: matrices are not all large, and memory must be moved as well."""

DENSE_TFLOPS: tuple[tuple[str, float], ...] = (
    ("B200", 2250),
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100", 989),
    ("H800", 989),
    ("H20", 148),
    ("A100", 312),
    ("A800", 312),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("A10G", 70),
    ("A10", 125),
    ("A40", 150),
    ("A30", 165),
    ("RTX 6000 Ada", 364),
    ("RTX A6000", 155),
    ("RTX A5000", 111),
    ("RTX 5090", 210),
    ("RTX 5080", 113),
    ("RTX 4090", 165),
    ("RTX 4080", 97),
    ("RTX 4070", 58),
    ("RTX 4060", 30),
    ("RTX 3090", 71),
    ("RTX 3080", 60),
    ("RTX 3060", 26),
    ("V100", 125),
    ("T4", 65),
)
"""bf16 or fp16 with fp32 accumulation, no sparsity, in TFLOP/s by NVIDIA's data sheets. The first name that fits counts."""


def seconds(shape: Shape, recipe: Recipe, *, tokens: int, device_title: str, measured: float | None) -> float | None:
    """How long training on `tokens` read tokens takes, without loading, measuring and saving.

    `measured` are tokens a second of earlier runs, from `measured_rate`. None where nothing can be said honestly: a CPU
    or an accelerator that is not in the table.
    """
    if measured:
        return tokens / measured
    peak = peak_flops(device_title)
    return tokens * flops_a_token(shape, recipe) / (peak * USEFUL_SHARE) if peak else None


def flops_a_token(shape: Shape, recipe: Recipe) -> float:
    """Operations for one token: forward, back to the inputs, back to the weights where they are trained, and once more
    forward where activations are recomputed. Attention reads half of the row on average."""
    matrices = shape.linear_parameters + shape.embedding  # the head multiplies, whether it is tied or not
    attention = 2 * row_length(shape, recipe) * shape.heads * shape.head_dim * shape.layers
    once = 2 * matrices + attention
    again = 2 * shape.linear_parameters + attention if recomputes(recipe.training, on_cpu=False) else 0
    to_weights = 2 * recipe.method.trained_parameters(shape)
    speed = 2 if resolve_precision(recipe.training.precision, on_cpu=False) == "fp32" else 1
    return (once + again + once + attention + to_weights) * speed


def peak_flops(device_title: str) -> float | None:
    """What the data sheet promises of the accelerator called so."""
    words = re.sub(r"[-_]+", " ", device_title)
    found = (figure for name, figure in DENSE_TFLOPS if re.search(rf"\b{name}\b", words, re.IGNORECASE))
    figure = next(found, None)
    return figure * 1e12 if figure else None


def measured_rate(session: Session, *, model: str, method: str, device_title: str) -> float | None:
    """Tokens a second of the newest runs of this model by this method on such a device; None where there were none."""
    rate = Run.latest["tokens_per_second"].astext.cast(Float)
    newest = select(func.max(Attempt.number)).where(Attempt.run_id == Run.id).correlate(Run).scalar_subquery()
    query = (
        select(rate)
        .join(Attempt, (Attempt.run_id == Run.id) & (Attempt.number == newest))
        .join(Device, (Device.worker == Attempt.worker) & (Device.name == Attempt.device))
        .where(Run.model["path"].astext == model, Run.recipe["method"]["kind"].astext == method)
        .where(Device.title == device_title, Run.step > 0, Run.latest.has_key("tokens_per_second"))
        .order_by(Run.id.desc())
        .limit(RUNS_REMEMBERED)
    )
    rates = [float(each) for each in session.scalars(query) if each and each > 0]
    return median(rates) if rates else None
