"""Claims and leases under fault: a claimant that dies, hints in a crowd, clocks that are wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from backend.core import runs
from backend.core.models import Outbox, RunEvent, State, Worker
from backend.core.settings import Settings
from tests.faults.drives import broken_promises, lose_the_answer_to_a_claim
from tests.faults.history import journals_under
from tests.support.clocks import wrong_clock
from tests.support.hosts import FAST, Lab
from tests.support.labs import MakeLab
from worker.supervisor import poke

LEASE_SECONDS = float(FAST["STUDIO_LEASE_SECONDS"])
PATIENCE_SECONDS = 300.0
ENDLESS: dict[str, Any] = {
    "training": {"max_steps": 100_000, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1},
    "evaluation": {"prompts": [], "eval_steps": 90_000, "sample_steps": 90_000},
    "saving": {"save_steps": 10},
}


@pytest.fixture
def lab(make_lab: MakeLab) -> Iterator[Lab]:
    with make_lab() as lab:
        yield lab


def settings_of(lab: Lab) -> Settings:
    return Settings(home=lab.home)


def trainers_of(lab: Lab, run_id: UUID) -> list[Path]:
    """One file for each trainer that ever had the run."""
    return sorted((lab.home / "runs" / str(run_id)).glob("attempt-*/trainer.json"))


def stop(lab: Lab, run_id: UUID) -> None:
    with lab.sessions.begin() as session:
        runs.stop(session, run_id, keep=False)


def claim_and_die(lab: Lab) -> None:
    """What is left of a host that was killed right behind the commit of its claim: it never renewed, and spawned nothing."""
    with lab.sessions.begin() as session:
        session.add(Worker(name="gone", place="p"))
        how = {"device": "cpu", "place": "p", "lease_seconds": LEASE_SECONDS, "limits": runs.Limits()}
        assert runs.claim(session, worker="gone", **how)  # type: ignore[arg-type]


def test_a_run_whose_claimant_died_before_it_ever_renewed_is_taken_over(lab: Lab) -> None:
    run_id = lab.launch(**ENDLESS)
    claim_and_die(lab)
    with lab.host():
        lab.wait_for_step(run_id, 1, PATIENCE_SECONDS)
        stop(lab, run_id)
        lab.wait_for(run_id, State.STOPPED, seconds=PATIENCE_SECONDS)
    first, second = lab.attempts(run_id)
    assert (first.worker, first.cause, second.worker) == ("gone", "lost", "a")
    assert lab.run(run_id).crashes == 0, "the death of a host is no fault of the run's"


def test_a_claim_whose_answer_is_lost_costs_neither_its_run_nor_the_next_one(lab: Lab) -> None:
    first, second = lose_the_answer_to_a_claim(lab)
    causes = sorted(str(attempt.cause) for run_id in (first, second) for attempt in lab.attempts(run_id))
    assert causes == ["queued", "succeeded", "succeeded"], "the claim that nobody heard of went back into the queue"
    assert (lab.run(first).crashes, lab.run(second).crashes) == (0, 0)
    assert broken_promises(lab, first, second) == []


def test_fifty_hints_at_once_to_two_hosts_start_one_trainer(lab: Lab) -> None:
    configured = settings_of(lab)
    with lab.host("a"), lab.host("b"):
        for name in "ab":
            lab.wait(partial(poke, configured, name), f"{name} to listen", PATIENCE_SECONDS)
        run_id = lab.launch(**ENDLESS)
        with lab.sessions.begin() as session:
            session.add_all([Outbox(hint="run", subject=str(run_id)) for _ in range(50)])
        with ThreadPoolExecutor(50) as crowd:
            heard = sum(crowd.map(lambda n: poke(configured, "ab"[n % 2]), range(50)))
        print(f"{heard} of 50 pokes were taken; the others found a full socket, which changes nothing")
        lab.wait_for_step(run_id, 3, PATIENCE_SECONDS)
        time.sleep(LEASE_SECONDS)
        assert [attempt.number for attempt in lab.attempts(run_id)] == [1]
        assert len(trainers_of(lab, run_id)) == 1
        stop(lab, run_id)
        lab.wait_for(run_id, State.STOPPED, seconds=PATIENCE_SECONDS)


@contextmanager
def clock(lab: Lab, folder: Path, hours: float) -> Iterator[None]:
    """Processes that are started meanwhile, and theirs, read a wrong clock."""
    before = dict(lab.environment)
    lab.environment |= wrong_clock(folder, hours)
    yield
    lab.environment = before


def test_hosts_whose_clocks_are_an_hour_off_rob_nobody_and_tell_all_in_order(lab: Lab, tmp_path: Path) -> None:
    """The holder is an hour ahead, the one who waits an hour behind; then the holder is killed, and all goes on."""
    with clock(lab, tmp_path, +1):
        first = lab.start_host("a")
    try:
        run_id = lab.launch(**ENDLESS)
        lab.wait_for_step(run_id, 3, PATIENCE_SECONDS)
        with clock(lab, tmp_path, -1), lab.host("b"):
            time.sleep(3 * LEASE_SECONDS)
            assert [attempt.worker for attempt in lab.attempts(run_id)] == ["a"], "no lease was stolen"
            lab.wait(lambda: newest_checkpoint(lab, run_id), "a checkpoint", PATIENCE_SECONDS)
            first.kill()
            lab.wait(lambda: lab.run(run_id).begun == 2, "the other host to go on", PATIENCE_SECONDS)
            lab.wait_for_step(run_id, lab.run(run_id).step + 5, PATIENCE_SECONDS)
            stop(lab, run_id)
            lab.wait_for(run_id, State.STOPPED, seconds=PATIENCE_SECONDS)
    finally:
        first.kill()
        first.wait()
    with lab.sessions.begin() as session:
        now = session.execute(select(func.clock_timestamp())).scalar_one()
        told = session.execute(select(RunEvent.at).where(RunEvent.run_id == run_id).order_by(RunEvent.seq)).scalars()
        times = list(told)
        run = runs.find(session, run_id)
    assert times == sorted(times)
    assert run.started_at is not None
    assert run.ended_at is not None
    for stamp in (run.queued_at, run.started_at, run.ended_at, *times):
        assert 0 <= (now - stamp).total_seconds() < 30 * 60, "stamped by a wrong clock"
    for attempt, hours in zip(lab.attempts(run_id), (+1, -1), strict=True):
        ahead = journal_began(lab, run_id, attempt.number) - attempt.started_at.timestamp()
        assert ahead == pytest.approx(hours * 3600, abs=30 * 60), "its clock was to be wrong"
    assert broken_promises(lab, run_id) == []


def journal_began(lab: Lab, run_id: UUID, attempt: int) -> float:
    """When an attempt's trainer wrote its first line, by its own clock."""
    line: dict[str, Any] = journals_under(lab.home)[str(run_id), attempt][0]
    return float(line["t"])


def newest_checkpoint(lab: Lab, run_id: UUID) -> int:
    with lab.sessions.begin() as session:
        row = runs.newest_checkpoint(session, run_id)
        return row.step if row else 0
