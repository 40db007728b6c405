from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from backend.core import pace, runs
from backend.core.models import Attempt, Device, Run, Worker
from backend.core.recipe import Recipe, read_recipe
from tests.core.test_memory import recipe, shape

H100 = "NVIDIA H100 80GB HBM3"


def test_arithmetic_meets_a_published_speed_within_a_factor_of_one_and_a_half() -> None:
    """NeMo on one H100: LoRA on Llama 3 8B at 2 × 4,096 tokens, nothing recomputed, 12,473 tokens a second."""
    settings = recipe(data={"max_length": 4096}, gradient_checkpointing=False, per_device_train_batch_size=2)
    assert pace.flops_a_token(shape(), settings) == pytest.approx(34e9, rel=0.1)
    needed = pace.seconds(shape(), settings, tokens=12_473, device_title=H100, measured=None)
    assert needed == pytest.approx(1, rel=0.5)


def test_what_was_measured_counts_more_than_arithmetic() -> None:
    assert pace.seconds(shape(), recipe(), tokens=6000, device_title=H100, measured=200.0) == 30


def test_recomputing_and_training_every_weight_take_longer() -> None:
    plain = pace.flops_a_token(shape(), recipe(gradient_checkpointing=False))
    assert pace.flops_a_token(shape(), recipe()) > 1.3 * plain
    assert pace.flops_a_token(shape(), recipe("full", gradient_checkpointing=False)) > 1.4 * plain


def test_where_nothing_is_known_nothing_is_said() -> None:
    for title in ("CPU, 2 cores (x86_64)", "Some accelerator of tomorrow"):
        assert pace.seconds(shape(), recipe(), tokens=1000, device_title=title, measured=None) is None


@pytest.mark.parametrize(
    ("title", "tflops"),
    [("NVIDIA GeForce RTX 4090", 165), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L4", 121), ("NVIDIA L40S", 362),
     ("Tesla V100-SXM2-16GB", 125), ("NVIDIA H100 PCIe", 756)],
)  # fmt: skip
def test_accelerators_are_known_by_their_titles(title: str, tflops: float) -> None:
    assert pace.peak_flops(title) == tflops * 1e12


def _trained(session: Session, name: str, rate: Any, *, device: str = "cuda:0") -> Run:
    settings: Recipe = read_recipe({"model": "m", "data": {"sets": ["a"]}, "method": "lora", "name": name}).recipe
    run = runs.create(session, recipe=settings, model={"path": "m"}, data=[{"name": "a", "version": 1, "rows": 3}])
    run.attempt, run.step, run.latest = 1, 10, {"tokens_per_second": rate}
    session.flush()
    session.add(Attempt(run_id=run.id, number=1, worker="box", device=device, ended_at=func.clock_timestamp()))
    session.flush()
    return run


def test_a_rate_is_the_median_of_like_runs_on_like_devices(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        _record(session)
        assert pace.measured_rate(session, model="m", method="lora", device_title=H100) == 120
        assert pace.measured_rate(session, model="m", method="qlora", device_title=H100) is None
        assert pace.measured_rate(session, model="other", method="lora", device_title=H100) is None


def test_runs_whose_numbers_a_restore_has_lifted_tell_their_rate_as_before(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        _record(session)
        session.execute(update(Run).values(attempt=Run.attempt + 1000))
        assert pace.measured_rate(session, model="m", method="lora", device_title=H100) == 120


def _record(session: Session) -> None:
    """Three runs on the accelerator and one on the CPU."""
    session.add(Worker(name="box", place="here"))
    session.flush()
    session.add(Device(worker="box", name="cuda:0", title=H100, memory_bytes=80 << 30))
    session.add(Device(worker="box", name="cpu", title="CPU", memory_bytes=80 << 30))
    session.flush()
    for name, rate in (("a", 100.0), ("b", 120.0), ("c", 900.0)):
        _trained(session, name, rate)
    _trained(session, "d", 1.0, device="cpu")
