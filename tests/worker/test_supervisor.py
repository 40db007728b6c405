"""A worker host takes a run from the queue to its end, whatever is killed on the way."""

from __future__ import annotations

import os
import signal
import time
from uuid import UUID

import psutil
import pytest
from sqlalchemy import select

from backend.core import journal, runs
from backend.core.models import Artifact, CheckpointRow, Intent, Sample, State
from tests.support.hosts import Lab
from tests.support.processes import is_alive

STEPS = list(range(1, 25))


def kinds(lab: Lab, run_id: UUID) -> list[str]:
    with lab.sessions.begin() as session:
        return [event.kind for event in journal.events(session, run_id, limit=10_000)]


def tell(lab: Lab, run_id: UUID, act: object, **options: bool) -> None:
    with lab.sessions.begin() as session:
        act(session, run_id, **options)  # type: ignore[operator]


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, dict[int, str]]:
    """The losses of a run that nothing happened to; filled by the first test and compared with by the others."""
    return {}


def reference(lab: Lab, undisturbed: dict[str, dict[int, str]]) -> dict[int, str]:
    """Train the same recipe once without a fault. Equal seeds on one machine give equal losses, to the last bit."""
    if not undisturbed:
        run_id = lab.launch()
        lab.wait_for(run_id, State.SUCCEEDED)
        undisturbed["losses"] = lab.losses(run_id)
    return undisturbed["losses"]


def test_a_queued_run_is_trained_exported_and_told_in_full(lab: Lab, undisturbed: dict[str, dict[int, str]]) -> None:
    with lab.host():
        run_id = lab.launch()
        lab.wait_for(run_id, State.SUCCEEDED)
    undisturbed["losses"] = lab.losses(run_id)
    assert sorted(undisturbed["losses"]) == STEPS
    with lab.sessions.begin() as session:
        run = runs.find(session, run_id)
        assert (run.attempt, run.begun, run.crashes, run.step, run.total_steps) == (1, 1, 0, 24, 24)
        assert run.lease_until is None
        artifacts = {row.kind: row for row in session.execute(select(Artifact)).scalars()}
        assert set(artifacts) == {"adapter", "merged"}
        assert all((lab.home / row.folder).is_dir() for row in artifacts.values())
        assert artifacts["merged"].facts["max_logit_diff"] <= artifacts["merged"].facts["threshold"]
        samples = session.execute(select(Sample.step).order_by(Sample.step)).scalars().all()
        assert samples[0] == 0
        assert samples[-1] == 24
    told = kinds(lab, run_id)
    assert told.count("metrics") >= 24
    assert {"phase", "facts", "sample", "checkpoint", "artifact", "state"} <= set(told)


@pytest.mark.parametrize("step", [2, 5, 13])
def test_a_killed_trainer_costs_nothing_but_time(lab: Lab, undisturbed: dict[str, dict[int, str]], step: int) -> None:
    with lab.host():
        expected = reference(lab, undisturbed)
        run_id = lab.launch()
        lab.wait_for_step(run_id, step)
        os.kill(lab.trainer_of(run_id), signal.SIGKILL)
        run = lab.wait_for(run_id, State.SUCCEEDED)
    assert run.attempt == 2
    assert lab.losses(run_id) == expected
    assert "rewound" in kinds(lab, run_id)


def test_a_killed_supervisor_takes_its_trainer_along_and_goes_on_when_it_is_back(
    lab: Lab, undisturbed: dict[str, dict[int, str]]
) -> None:
    with lab.host() as host:
        expected = reference(lab, undisturbed)
        run_id = lab.launch()
        lab.wait_for_step(run_id, 9)
        trainer = psutil.Process(lab.trainer_of(run_id))
        host.kill()
        host.wait()
        lab.wait(lambda: not is_alive(trainer), "the trainer to die with its supervisor", 2)
        with lab.host():
            run = lab.wait_for(run_id, State.SUCCEEDED)
    assert (run.attempt, run.crashes) == (2, 0)
    assert lab.losses(run_id) == expected


def test_a_frozen_host_loses_its_run_and_can_write_nothing_when_it_wakes(
    lab: Lab, undisturbed: dict[str, dict[int, str]]
) -> None:
    with lab.host("a") as first:
        expected = reference(lab, undisturbed)
        run_id = lab.launch()
        lab.wait_for_step(run_id, 5)
        trainer = psutil.Process(lab.trainer_of(run_id))
        first.send_signal(signal.SIGSTOP)
        trainer.suspend()
        with lab.host("b"):
            lab.wait(lambda: lab.run(run_id).attempt == 2, "the second host to take the run", 30)
            first.send_signal(signal.SIGCONT)
            trainer.resume()
            lab.wait(lambda: not is_alive(trainer), "the first host to kill its stale trainer", 10)
            lab.wait_for(run_id, State.SUCCEEDED)
    assert [attempt.worker for attempt in lab.attempts(run_id)] == ["a", "b"]
    assert lab.losses(run_id) == expected


def test_pause_frees_the_accelerator_and_resume_goes_on_bit_for_bit(
    lab: Lab, undisturbed: dict[str, dict[int, str]]
) -> None:
    with lab.host():
        expected = reference(lab, undisturbed)
        run_id = lab.launch()
        lab.wait_for_step(run_id, 6)
        trainer = psutil.Process(lab.trainer_of(run_id))
        tell(lab, run_id, runs.pause)
        paused = lab.wait_for(run_id, State.PAUSED, seconds=10)
        assert not is_alive(trainer)
        assert paused.step < 24
        tell(lab, run_id, runs.resume)
        lab.wait_for(run_id, State.SUCCEEDED)
    assert lab.losses(run_id) == expected


def test_stop_and_keep_exports_what_was_learned_and_resume_finishes(
    lab: Lab, undisturbed: dict[str, dict[int, str]]
) -> None:
    with lab.host():
        expected = reference(lab, undisturbed)
        run_id = lab.launch()
        lab.wait_for_step(run_id, 6)
        tell(lab, run_id, runs.stop, keep=True)
        stopped = lab.wait_for(run_id, State.STOPPED, seconds=30)
        with lab.sessions.begin() as session:
            kept = session.execute(select(Artifact.step).where(Artifact.withdrawn_at.is_(None))).scalars().all()
        assert kept == [stopped.step] * 2
        tell(lab, run_id, runs.resume)
        lab.wait_for(run_id, State.SUCCEEDED)
    assert lab.losses(run_id) == expected


def test_stop_and_discard_ends_at_once_and_can_be_undone(lab: Lab) -> None:
    with lab.host():
        run_id = lab.launch()
        lab.wait_for_step(run_id, 6)
        trainer = psutil.Process(lab.trainer_of(run_id))
        tell(lab, run_id, runs.stop, keep=False)
        assert lab.wait_for(run_id, State.STOPPED, seconds=5).discarded_at is not None
        assert not is_alive(trainer)
        with lab.sessions.begin() as session:
            runs.restore(session, run_id, hours=24)
        tell(lab, run_id, runs.resume)
        lab.wait_for(run_id, State.SUCCEEDED)
    assert sorted(lab.losses(run_id)) == STEPS


def test_a_change_in_mid_run_holds_from_the_step_that_was_told_after_a_kill_too(lab: Lab) -> None:
    with lab.host():
        run_id = lab.launch()
        lab.wait_for_step(run_id, 3)
        with lab.sessions.begin() as session:
            runs.amend(session, run_id, "training.learning_rate", 1e-4, by=None)
        lab.wait(lambda: "amended" in kinds(lab, run_id), "the trainer to take the change", 30)
        os.kill(lab.trainer_of(run_id), signal.SIGKILL)
        lab.wait_for(run_id, State.SUCCEEDED)
    with lab.sessions.begin() as session:
        (amendment,) = runs.amendments(session, run_id)
        rates = dict(journal.curves(session, run_id, ["learning_rate"])["learning_rate"])
    assert amendment.step is not None
    assert all(isinstance(rate, float) and rate < 1.1e-4 for step, rate in rates.items() if step >= amendment.step)
    assert max(rate for rate in rates.values() if isinstance(rate, float)) > 1e-3


def test_a_torn_checkpoint_is_told_and_the_one_before_is_used(lab: Lab, undisturbed: dict[str, dict[int, str]]) -> None:
    with lab.host() as host:
        expected = reference(lab, undisturbed)
        run_id = lab.launch()
        lab.wait_for_step(run_id, 13)
        host.kill()
        host.wait()
        with lab.sessions.begin() as session:
            newest = runs.published(session, run_id)[0]
        weights = next((lab.home / newest.folder).rglob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-8])
        with lab.host():
            lab.wait_for(run_id, State.SUCCEEDED)
    with lab.sessions.begin() as session:
        logged = [event.data["text"] for event in journal.events(session, run_id, limit=10_000) if event.kind == "log"]
    assert any(f"step {newest.step} is damaged" in text for text in logged)
    assert lab.losses(run_id) == expected


def test_files_of_replaced_checkpoints_go_after_their_rows(lab: Lab) -> None:
    with lab.host():
        run_id = lab.launch()
        lab.wait_for(run_id, State.SUCCEEDED)

        def swept() -> bool:
            with lab.sessions.begin() as session:
                rows = session.execute(select(CheckpointRow)).scalars().all()
                return (
                    all((row.replaced_at is None) == (lab.home / row.folder).exists() for row in rows) and len(rows) > 2
                )

        lab.wait(swept, "replaced checkpoints to be deleted, and the others to stay", 10)


def test_a_host_that_is_shut_down_saves_and_gives_the_run_back(
    lab: Lab, undisturbed: dict[str, dict[int, str]]
) -> None:
    with lab.host() as host:
        expected = reference(lab, undisturbed)
        run_id = lab.launch()
        lab.wait_for_step(run_id, 6)
        host.terminate()
        assert host.wait(timeout=30) == 0
        run = lab.run(run_id)
        assert (run.state, run.intent, run.crashes) == (State.QUEUED, Intent.RUN, 0)
        with lab.sessions.begin() as session:
            saved = runs.newest_checkpoint(session, run_id)
        assert saved is not None
        assert saved.step == run.step
        with lab.host():
            lab.wait_for(run_id, State.SUCCEEDED)
    assert lab.losses(run_id) == expected


def test_a_poke_is_heard_at_once(lab: Lab) -> None:
    lab.environment["STUDIO_RENEW_SECONDS"] = "60"
    lab.environment["STUDIO_LEASE_SECONDS"] = "600"
    from backend.core.settings import Settings
    from worker.supervisor import poke

    with lab.host():
        configured = Settings(home=lab.home)
        lab.wait(lambda: poke(configured, "a"), "the supervisor to listen", 30)
        time.sleep(1)
        run_id = lab.launch()
        assert poke(configured, "a")
        lab.wait(lambda: lab.run(run_id).attempt == 1, "the claim", 5)
