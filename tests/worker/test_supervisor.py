"""A worker host takes a run from the queue to its end, whatever is killed on the way."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import psutil
import psycopg
import pytest
from sqlalchemy import create_engine, func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import sessionmaker

from backend.core import awake, backup, curves, disk, journal, runs
from backend.core.assignment import ASSIGNMENT, CHECKPOINTS, CONTROL, JOURNAL, Assignment, Outcome
from backend.core.checkpoints import manifest_sha256, write_manifest
from backend.core.errors import Problem
from backend.core.models import Artifact, Attempt, CheckpointRow, Intent, Run, Sample, State, Worker
from backend.core.rendering.chat import ENDED_BY
from backend.core.settings import Settings
from tests.support.hosts import Lab
from tests.support.labs import MakeLab
from tests.support.processes import is_alive
from worker import spares, tail
from worker.holding import Doing, Holding, told_first
from worker.host import Host
from worker.spares import Spares, Trainer
from worker.supervisor import Supervisor
from worker.sweep import Sweep, tidy
from worker.trainer.journal import Journal

STEPS = list(range(1, 25))
Losses = dict[int, str]


def kinds(lab: Lab, run_id: UUID) -> list[str]:
    with lab.sessions.begin() as session:
        return [event.kind for event in journal.events(session, run_id, limit=10_000)]


def tell(lab: Lab, run_id: UUID, act: object, **options: bool) -> None:
    with lab.sessions.begin() as session:
        act(session, run_id, **options)  # type: ignore[operator]


@pytest.fixture(scope="module")
def staffed(make_lab: MakeLab) -> Iterator[Lab]:
    """A lab whose host is left alive by all tests that ask for it, and so has a warm trainer for each."""
    with make_lab() as lab, lab.host():
        yield lab


@pytest.fixture(scope="module")
def trained(staffed: Lab) -> UUID:
    """A run that nothing happened to."""
    run_id = staffed.launch()
    staffed.wait_for(run_id, State.SUCCEEDED)
    return run_id


@pytest.fixture(scope="module")
def undisturbed(staffed: Lab, trained: UUID) -> Losses:
    """Equal seeds on one machine give equal losses, to the last bit, in whatever lab."""
    return staffed.losses(trained)


def test_a_queued_run_is_trained_exported_and_told_in_full(staffed: Lab, trained: UUID, undisturbed: Losses) -> None:
    assert sorted(undisturbed) == STEPS
    with staffed.sessions.begin() as session:
        run = runs.find(session, trained)
        assert (run.attempt, run.begun, run.crashes, run.step, run.total_steps) == (1, 1, 0, 24, 24)
        assert run.lease_until is None
        given = select(Artifact).where(Artifact.run_id == trained)
        artifacts = {row.kind: row for row in session.execute(given).scalars()}
        assert set(artifacts) == {"adapter", "merged"}
        assert all((staffed.home / row.folder).is_dir() for row in artifacts.values())
        assert artifacts["merged"].facts["max_logit_diff"] <= artifacts["merged"].facts["threshold"]
        told = select(Sample.step).where(Sample.run_id == trained).order_by(Sample.step)
        samples = session.execute(told).scalars().all()
        assert samples[0] == 0
        assert samples[-1] == 24
    events = kinds(staffed, trained)
    assert events.count("metrics") >= 24
    assert {"phase", "facts", "sample", "checkpoint", "artifact", "state"} <= set(events)


@pytest.mark.parametrize("step", [2, 5, 13])
def test_a_killed_trainer_costs_nothing_but_time(staffed: Lab, undisturbed: Losses, step: int) -> None:
    run_id = staffed.launch()
    staffed.wait_for_step(run_id, step)
    os.kill(staffed.trainer_of(run_id), signal.SIGKILL)
    run = staffed.wait_for(run_id, State.SUCCEEDED)
    assert run.attempt == 2
    assert staffed.losses(run_id) == undisturbed
    assert "rewound" in kinds(staffed, run_id)


def test_a_killed_supervisor_takes_its_trainer_along_and_goes_on_when_it_is_back(lab: Lab, undisturbed: Losses) -> None:
    with lab.host() as host:
        run_id = lab.launch()
        lab.wait_for_step(run_id, 9)
        trainer = psutil.Process(lab.trainer_of(run_id))
        host.kill()
        host.wait()
        lab.wait(lambda: not is_alive(trainer), "the trainer to die with its supervisor", 2)
        with lab.host():
            run = lab.wait_for(run_id, State.SUCCEEDED)
    assert (run.attempt, run.crashes) == (2, 0)
    assert lab.losses(run_id) == undisturbed


def test_a_frozen_host_loses_its_run_and_can_write_nothing_when_it_wakes(lab: Lab, undisturbed: Losses) -> None:
    with lab.host("a") as first:
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
    assert lab.losses(run_id) == undisturbed


def test_a_host_that_froze_in_the_midst_of_storing_points_loses_its_run_too(lab: Lab) -> None:
    """Postgres then waits for the rest of the COPY, whose transaction has the run locked."""
    run_id = lab.launch()
    with lab.sessions.begin() as session:
        limits = runs.Limits()
        runs.claim(session, worker="frozen", device="cpu", place="here", lease_seconds=1, limits=limits)
    with closing(psycopg.connect(lab.database_url.replace("+psycopg", ""))) as frozen:
        frozen.execute("SELECT FROM runs WHERE id = %s FOR UPDATE", [run_id])
        frozen.pgconn.send_query(b'COPY "points" FROM STDIN')
        with lab.host("b"):
            lab.wait(lambda: lab.run(run_id).attempt == 2, "the second host to take the run", 60)
    assert "cut off who stood still" in lab.logs()


def test_pause_frees_the_accelerator_and_resume_goes_on_bit_for_bit(staffed: Lab, undisturbed: Losses) -> None:
    run_id = staffed.launch()
    staffed.wait_for_step(run_id, 6)
    trainer = psutil.Process(staffed.trainer_of(run_id))
    tell(staffed, run_id, runs.pause)
    paused = staffed.wait_for(run_id, State.PAUSED, seconds=10)
    assert not is_alive(trainer)
    assert paused.step < 24
    tell(staffed, run_id, runs.resume)
    staffed.wait_for(run_id, State.SUCCEEDED)
    assert staffed.losses(run_id) == undisturbed


def test_stop_and_keep_exports_what_was_learned_and_resume_finishes(staffed: Lab, undisturbed: Losses) -> None:
    run_id = staffed.launch()
    staffed.wait_for_step(run_id, 6)
    tell(staffed, run_id, runs.stop, keep=True)
    stopped = staffed.wait_for(run_id, State.STOPPED, seconds=30)
    with staffed.sessions.begin() as session:
        kept = select(Artifact.step).where(Artifact.run_id == run_id, Artifact.withdrawn_at.is_(None))
        assert session.execute(kept).scalars().all() == [stopped.step] * 2
    tell(staffed, run_id, runs.resume)
    staffed.wait_for(run_id, State.SUCCEEDED)
    assert staffed.losses(run_id) == undisturbed


def test_stop_and_discard_ends_at_once_and_can_be_undone(staffed: Lab) -> None:
    run_id = staffed.launch()
    staffed.wait_for_step(run_id, 6)
    trainer = psutil.Process(staffed.trainer_of(run_id))
    tell(staffed, run_id, runs.stop, keep=False)
    assert staffed.wait_for(run_id, State.STOPPED, seconds=5).discarded_at is not None
    assert not is_alive(trainer)
    with staffed.sessions.begin() as session:
        runs.restore(session, run_id, hours=24)
    tell(staffed, run_id, runs.resume)
    staffed.wait_for(run_id, State.SUCCEEDED)
    assert sorted(staffed.losses(run_id)) == STEPS


def test_a_change_in_mid_run_holds_from_the_step_that_was_told_after_a_kill_too(staffed: Lab) -> None:
    run_id = staffed.launch()
    staffed.wait_for_step(run_id, 3)
    with staffed.sessions.begin() as session:
        runs.amend(session, run_id, "training.learning_rate", 1e-4, by=None)
    staffed.wait(lambda: "amended" in kinds(staffed, run_id), "the trainer to take the change", 30)
    os.kill(staffed.trainer_of(run_id), signal.SIGKILL)
    staffed.wait_for(run_id, State.SUCCEEDED)
    with staffed.sessions.begin() as session:
        (amendment,) = runs.amendments(session, run_id)
        rates = dict(curves.read(session, run_id, ["learning_rate"])["learning_rate"])
    assert amendment.step is not None
    assert all(isinstance(rate, float) and rate < 1.1e-4 for step, rate in rates.items() if step >= amendment.step)
    assert max(rate for rate in rates.values() if isinstance(rate, float)) > 1e-3


def test_a_torn_checkpoint_is_told_and_the_one_before_is_used(lab: Lab, undisturbed: Losses) -> None:
    with lab.host() as host:
        run_id = lab.launch()
        lab.wait_for_step(run_id, 13)
        trainer = psutil.Process(lab.trainer_of(run_id))
        host.kill()
        host.wait()
        lab.wait(lambda: not is_alive(trainer), "the trainer to die with its supervisor", 2)
        saved = {
            int(path.parent.name.rpartition("-")[2]): path
            for path in lab.home.glob(f"runs/{run_id}/*/*/check*/manifest.json")
        }
        newest = max(saved)  # published or not yet
        weights = next(saved[newest].parent.rglob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-8])
        with lab.host():
            lab.wait_for(run_id, State.SUCCEEDED)
    with lab.sessions.begin() as session:
        logged = [event.data["text"] for event in journal.events(session, run_id, limit=10_000) if event.kind == "log"]
    assert any(f"step {newest} is damaged" in text for text in logged)
    assert lab.losses(run_id) == undisturbed


def test_a_run_that_has_nothing_to_keep_stops_without_a_trainer(lab: Lab) -> None:
    run_id = lab.launch()
    with lab.sessions.begin() as session:
        runs.claim(session, worker="gone", device="cpu", place="here", lease_seconds=1, limits=runs.Limits())
    tell(lab, run_id, runs.stop, keep=True)
    with lab.host("b"):
        assert lab.wait_for(run_id, State.STOPPED).cause is None
    assert "phase" not in kinds(lab, run_id)


def test_files_of_replaced_checkpoints_go_after_their_rows(staffed: Lab, trained: UUID) -> None:
    saved = select(CheckpointRow).where(CheckpointRow.run_id == trained)

    def swept() -> bool:
        with staffed.sessions.begin() as session:
            rows = session.execute(saved).scalars().all()
            kept = [row for row in rows if row.replaced_at is None]
            return len(rows) > 2 and [row for row in rows if (staffed.home / row.folder).exists()] == kept

    staffed.wait(swept, "replaced checkpoints to be deleted, and the others to stay", 10)


def test_a_host_that_is_shut_down_saves_and_gives_the_run_back(lab: Lab, undisturbed: Losses) -> None:
    with lab.host() as host:
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
    assert lab.losses(run_id) == undisturbed


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


# ---- one attempt, turn by turn ---------------------------------------------------------------------------------------


def settings_of(lab: Lab, **changes: float | str) -> Settings:
    values = {"home": lab.home, "database_url": lab.database_url, "redis_url": lab.redis_url, "worker_name": "a"}
    return Settings.model_validate(values | changes)


def elsewhere(lab: Lab, copy: Path) -> Supervisor:
    """Another supervisor of the same name, on a copy of the home."""
    return Supervisor(settings_of(lab, devices="cpu", home=str(copy / "copy"), lease_seconds=1, renew_seconds=0.1))


def host_of(lab: Lab, **changes: float | str) -> Host:
    configured = settings_of(lab, **changes)
    spares = Spares(configured)
    return Host(configured, lab.sessions, configured.redis_url, "a", configured.place(), spares)


@contextmanager
def held(lab: Lab, **changes: float | str) -> Iterator[Holding]:
    """An attempt that was just claimed. A trainer that it starts is ended with the test."""
    host = host_of(lab, **changes)
    with host.transaction() as session:
        token = runs.claim(session, worker="a", device="cpu", place=host.place, lease_seconds=30, limits=host.limits)
    assert token is not None
    holding = Holding(host, token, "cpu")
    try:
        yield holding
    finally:
        if holding.trainer is not None:
            holding.trainer.kill()


def turn_until(holding: Holding, *wanted: Doing) -> None:
    deadline = time.monotonic() + 20
    while holding.doing not in wanted:
        assert time.monotonic() < deadline, f"still {holding.doing}"
        holding.turn()
        time.sleep(0.01)


def publish(lab: Lab, holding: Holding, step: int) -> Path:
    """A whole checkpoint of the attempt, on disk and in the table."""
    token, name = holding.token, f"{CHECKPOINTS}/checkpoint-{step}"
    folder = holding.folder / name
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * step)
    manifest = write_manifest(folder, step)
    with lab.sessions.begin() as session:
        run = runs.hold(session, token)
        row = CheckpointRow(
            run_id=run.id,
            attempt=token.attempt,
            step=step,
            folder=folder.relative_to(lab.home).as_posix(),
            manifest_sha256=manifest_sha256(folder),
            bytes=manifest.bytes,
        )
        runs.publish_checkpoint(session, run, row, place=holding.host.place)
    return folder


def die(lab: Lab, holding: Holding) -> None:
    assert holding.trainer is not None
    holding.trainer.kill()
    with lab.sessions.begin() as session:
        runs.reap(session, holding.token, runs.Ending(None), runs.Limits())


def test_a_last_line_that_was_stored_while_its_answer_was_lost_is_heard_all_the_same(lab: Lab) -> None:
    run_id = lab.launch()
    with held(lab) as holding:
        turn_until(holding, Doing.WATCHING)
        assert holding.trainer is not None
        holding.trainer.kill()
        with Journal(holding.folder / JOURNAL) as lines:
            lines.end(Outcome.DONE)
        chunk = tail.read(holding.folder / JOURNAL, 0)
        with lab.sessions.begin() as session:
            batch = journal.Batch(1, chunk.start, chunk.end, chunk.lines)
            journal.ship(session, holding.token, batch, journal.Origin("here", "x"), 30)
        turn_until(holding, Doing.OVER)
    assert (lab.run(run_id).state, lab.run(run_id).crashes) == (State.SUCCEEDED, 0)


def test_what_postgres_refuses_to_store_ends_that_run_alone_and_in_words(lab: Lab) -> None:
    run_id = lab.launch()
    with held(lab) as holding:
        turn_until(holding, Doing.WATCHING)
        line = {"v": 1, "n": 0, "t": 0.0, "kind": "log", "step": 0, "data": {"level": "info", "text": "\0"}}
        (holding.folder / JOURNAL).write_text(json.dumps(line) + "\n")
        turn_until(holding, Doing.OVER)
        assert holding.trainer is not None
        assert holding.trainer.exit_code is not None
        holding.turn()
    run = lab.run(run_id)
    assert run.state == State.FAILED
    assert "could not go on" in (run.cause or {})["message"]


def test_whatever_a_model_answers_can_be_stored(lab: Lab, tmp_path: Path) -> None:
    lab.launch()
    with Journal(tmp_path / JOURNAL) as lines:
        lines.sample(index=0, prompt="p", text="a\0b", tokens=3, finish="stop")
    chunk = tail.read(tmp_path / JOURNAL, 0)
    with held(lab) as holding, lab.sessions.begin() as session:
        batch = journal.Batch(1, chunk.start, chunk.end, chunk.lines)
        journal.ship(session, holding.token, batch, journal.Origin("here", "x"), 30)
        assert session.execute(select(Sample.text)).scalar_one() == "a\N{REPLACEMENT CHARACTER}b"


def test_half_a_line_that_a_full_disk_took_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    with Journal(tmp_path / JOURNAL) as lines:
        lines.log("info", "first")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / JOURNAL).stat().st_size + 20, limits[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                lines.log("info", "second")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        lines.end(Outcome.FAILED)
    assert [line.kind for line in tail.read(tmp_path / JOURNAL, 0).lines] == ["log", "end"]


def test_a_run_that_starts_over_finds_none_of_its_old_checkpoints_again(lab: Lab) -> None:
    run_id = lab.launch()
    with held(lab) as first:
        turn_until(first, Doing.WATCHING)
        publish(lab, first, 10)
        die(lab, first)
    tell(lab, run_id, runs.start_over)
    with held(lab) as second:
        turn_until(second, Doing.WATCHING)
        assignment = Assignment.model_validate_json((second.folder / ASSIGNMENT).read_bytes())
    assert assignment.resume is None


@pytest.mark.parametrize("told", ["before it was taken over", "while it loaded"])
def test_what_is_to_be_kept_may_take_its_time_to_load_to_measure_and_to_answer(
    lab: Lab, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what is silent is killed: before it saves, a trainer measures all rows that were held back and asks all prompts."""
    run_id = lab.launch()
    with held(lab) as first:
        turn_until(first, Doing.WATCHING)
        publish(lab, first, 10)
        die(lab, first)
    if told == "before it was taken over":
        tell(lab, run_id, runs.stop, keep=True)
    with held(lab, stop_seconds=0.01) as second:
        turn_until(second, Doing.WATCHING)
        if told == "while it loaded":
            tell(lab, run_id, runs.stop, keep=True)
            second.turn(urgent=True)
            assert "keep" in (second.folder / CONTROL).read_text()
        time.sleep(0.1)
        second.turn()
        assert second.trainer is not None
        assert "was killed" not in caplog.text
        assert second.trainer.exit_code is None


@pytest.mark.parametrize("renew_seconds", [5, 1e-6], ids=["between renewals", "while a lease is renewed"])
def test_what_is_to_be_kept_and_is_damaged_is_told_and_takes_nothing_back(lab: Lab, renew_seconds: float) -> None:
    """It may not end as if all were well, with nothing to download and not a word about it."""
    run_id = lab.launch()
    with held(lab) as first:
        turn_until(first, Doing.WATCHING)
        (publish(lab, first, 10) / "weights").write_bytes(b"cut off")
        die(lab, first)
    tell(lab, run_id, runs.stop, keep=True)
    with held(lab, renew_seconds=renew_seconds) as second:
        turn_until(second, Doing.OVER)
        assert second.trainer is None
    run = lab.run(run_id)
    assert (run.state, (run.cause or {})["code"]) == (State.FAILED, "checkpoint.damaged")
    assert "The checkpoint of step 10 is damaged: " in (run.cause or {})["message"]
    assert "rewound" not in kinds(lab, run_id)
    tell(lab, run_id, runs.resume)
    with held(lab) as third:
        turn_until(third, Doing.WATCHING)


def test_what_postgres_refuses_is_not_called_an_outage(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """After an outage no lease counts that was watched before: one that came at every turn would let none be taken."""
    lab.launch()
    of_nobody = Attempt(run_id=lab.launch(), number=1, worker="a", device="cpu")
    with lab.sessions.begin() as session:
        session.add(of_nobody)
    supervisor = Supervisor(settings_of(lab, devices="cpu"))
    supervisor._turn()
    supervisor.host.spares.close()
    assert "uq_attempts_live_device" in caplog.text
    assert "Postgres cannot be reached" not in caplog.text


def test_a_host_that_is_shut_down_leaves_an_attempt_that_is_no_longer_its_own(lab: Lab) -> None:
    lab.launch()
    with held(lab) as holding:
        with lab.sessions.begin() as session:
            runs.free_own(session, "a", runs.Limits())
        holding.shut_down()
        turn_until(holding, Doing.OVER)


def test_a_trainer_that_is_shut_down_while_it_loads_has_not_crashed(lab: Lab) -> None:
    run_id = lab.launch()
    with held(lab) as holding:
        turn_until(holding, Doing.WATCHING)
        holding.shut_down()
        turn_until(holding, Doing.OVER)
    assert (lab.run(run_id).state, lab.run(run_id).crashes) == (State.QUEUED, 0)


def test_a_trainer_that_is_killed_for_its_silence_is_said_to_have_been_silent(lab: Lab) -> None:
    run_id = lab.launch()
    for _ in range(3):
        with held(lab, loading_silence_seconds=0.01) as holding:
            turn_until(holding, Doing.OVER)
    assert "nothing had moved in it" in (lab.run(run_id).cause or {})["message"]


@contextmanager
def deaf_trainer() -> Iterator[Trainer]:
    """One that leads no group, and so hears no kill: as if it hung in a driver. A word to end it hears neither."""
    trainer = Trainer.__new__(Trainer)
    deaf = ["/bin/sh", "-c", "trap '' TERM; echo; exec sleep 60"]
    trainer.process = subprocess.Popen(deaf, stdout=subprocess.PIPE)
    assert trainer.process.stdout is not None
    assert trainer.process.stdout.readline()
    try:
        yield trainer
    finally:
        trainer.process.kill()
        trainer.process.wait()


def test_a_trainer_that_cannot_be_killed_is_counted_as_dead_and_its_device_stays_closed_while_it_is_there(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spares, "KILL_SECONDS", 0.3)
    run_id = lab.launch()
    supervisor = Supervisor(settings_of(lab, devices="cpu"))
    assert supervisor._start()
    with held(lab, loading_silence_seconds=0.01) as holding, deaf_trainer() as deaf:
        holding.watch(deaf)
        turn_until(holding, Doing.OVER)
        assert "nothing had moved in it" in (lab.attempts(run_id)[0].cause or "")
        assert lab.run(run_id).crashes == 1
        draft = holding.folder / CHECKPOINTS / ".tmp-checkpoint-4"
        draft.mkdir(parents=True)
        supervisor.holdings["cpu"] = holding
        for _ in range(2):
            supervisor._forget_ended()
            assert not supervisor._is_free("cpu")
        assert caplog.text.count("has not ended yet") == 1
        assert draft.exists(), "it may still be written to"
        with supervisor.host.transaction() as session:
            supervisor._seen(session)
            (told,) = session.get_one(Worker, "a").facts["strangers"]["cpu"]
        assert (told["name"], told["pid"]) == ("worker.trainer", deaf.process.pid)
        deaf.process.kill()
        deaf.process.wait()
        supervisor._forget_ended()
        assert supervisor._is_free("cpu")
        supervisor.sweep()
        assert not draft.exists()


@pytest.mark.parametrize("why", ["nothing had moved in it", "told to end"])
def test_nobody_is_blamed_for_the_time_in_which_the_whole_host_stood_still(
    lab: Lab, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container that is paused stops the supervisor together with the trainer, which is healthy when both go on."""
    monkeypatch.setattr(spares, "KILL_SECONDS", 0.3)
    monkeypatch.setattr(awake, "GAP_SECONDS", 0.1)
    lab.launch()
    patience = {"told to end": {"stop_seconds": 1.0}}.get(why, {"loading_silence_seconds": 1.0})
    with held(lab, **patience) as holding, deaf_trainer() as deaf:
        holding.watch(deaf)
        if why == "told to end":
            holding.shut_down()
        holding.turn()
        time.sleep(1.5)
        holding.turn()
        assert why not in caplog.text
        turn_until(holding, Doing.OVER)
        assert why in caplog.text


@pytest.mark.parametrize("phase", ["training", "exporting"])
def test_a_host_that_is_shut_down_waits_no_longer_for_what_is_to_be_kept(lab: Lab, phase: str) -> None:
    """There is little time: what was not saved by then is made once more by the next attempt, which is told to keep it too."""
    run_id = lab.launch()
    with held(lab, stop_seconds=0.3) as holding, deaf_trainer() as deaf:
        holding.watch(deaf)
        holding.folder.mkdir(parents=True)
        with Journal(holding.folder / JOURNAL) as told:
            told.phase("training")
            told.metrics({"loss": 1.0}, 0.0)
            told.phase(phase)
        holding.turn()
        tell(lab, run_id, runs.stop, keep=True)
        holding.turn(urgent=True)
        assert "keep" in (holding.folder / CONTROL).read_text()
        holding.shut_down()
        holding.turn(urgent=True)
        time.sleep(0.4)
        holding.turn()
        assert holding._killed_why
    run = lab.run(run_id)
    assert (run.intent, run.crashes) == (Intent.KEEP, 0)


@pytest.mark.parametrize("keep", [True, False], ids=["stop and keep", "pause"])
def test_nobody_is_cut_off_as_untrained_whose_first_steps_are_not_shipped_yet(lab: Lab, keep: bool) -> None:
    """Behind an outage a journal goes in batches, and the first of them may hold nothing but long answers."""
    run_id = lab.launch()
    with held(lab) as holding, deaf_trainer() as deaf:
        turn_until(holding, Doing.WATCHING)
        assert holding.trainer is not None
        holding.trainer.kill()
        holding.watch(deaf)
        with Journal(holding.folder / JOURNAL) as told:
            told.phase("training")
            told.sample(index=0, prompt="Hi " * tail.BATCH_BYTES, text="Yes.", tokens=2, finish="stop")
            told.metrics({"loss": 1.0}, 0.0)
        tell(lab, run_id, partial(runs.stop, keep=True) if keep else runs.pause)
        for _batch in range(3):
            holding.turn(urgent=True)
            assert holding.doing is Doing.WATCHING
        assert ("keep" if keep else "pause") in (holding.folder / CONTROL).read_text()
        assert lab.losses(run_id)


def test_a_trainer_that_was_ended_over_a_template_fails_its_run_in_words_and_is_not_tried_again(lab: Lab) -> None:
    run_id = lab.launch()
    with held(lab) as holding:
        turn_until(holding, Doing.WATCHING)
        assert holding.trainer is not None
        holding.trainer.process.send_signal(ENDED_BY)
        turn_until(holding, Doing.OVER)
    run = lab.run(run_id)
    assert (run.state, run.crashes, (run.cause or {})["code"]) == (State.FAILED, 0, "template")
    assert "it timed out" in (run.cause or {})["message"]


def test_a_run_whose_rows_cannot_be_trained_says_which_and_why(lab: Lab) -> None:
    run_id = lab.launch(data={"max_length": 16, "truncation": "refuse"})
    with held(lab) as holding:
        turn_until(holding, Doing.OVER)
    run = lab.run(run_id)
    cause = run.cause or {}
    assert (run.state, cause["code"]) == (State.FAILED, "rows.too_long")
    assert cause["where"].startswith("row 1")
    assert "rows are longer than 16 tokens" in cause["message"]


def test_of_several_problems_the_first_is_told_and_how_many_more_there_are() -> None:
    problems = [{"code": "rows.empty", "message": "is empty.", "where": "row 3", "hint": "Fill it in."}] * 3
    cause = {"code": "rows", "message": "This cannot be trained as it is.", "problems": problems}
    assert told_first(cause) == Problem("rows.empty", "is empty.", "row 3", "Fill it in. The log names 2 more.")


def test_a_redis_that_hangs_holds_up_no_turn(lab: Lab) -> None:
    run_id = lab.launch()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        host = host_of(lab, redis_url=f"redis://127.0.0.1:{mute.getsockname()[1]}/0")
        began = time.monotonic()
        with host.transaction() as session:
            runs.pause(session, run_id)
        assert time.monotonic() - began < 1


def test_a_spare_that_cannot_be_started_is_no_reason_to_end(lab: Lab) -> None:
    (lab.home / "logs").write_text("a file where a folder should be")
    spares = Spares(settings_of(lab, spare_seconds=0))
    spares.keep()
    (lab.home / "logs").unlink()
    spares.keep()
    assert spares.take().exit_code is None
    spares.close()


def test_files_of_a_host_that_is_gone_are_deleted_by_who_shares_its_storage(lab: Lab) -> None:
    lab.launch()
    with held(lab) as holding:
        turn_until(holding, Doing.WATCHING)
        folders = [publish(lab, holding, step) for step in (1, 2, 3)]
    with lab.sessions.begin() as session:
        session.execute(update(Attempt).values(worker="gone"))
        session.add(Worker(name="gone", place=holding.host.place))
    Sweep(host_of(lab))()
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_files_of_a_host_that_no_table_knows_any_more_are_deleted_where_the_runs_files_lie(
    lab: Lab, tmp_path: Path
) -> None:
    """A restore removes all hosts, and the machine may have another name than before."""
    lab.launch()
    with held(lab) as holding:
        turn_until(holding, Doing.WATCHING)
        folders = [publish(lab, holding, step) for step in (1, 2, 3)]
    deleted = select(CheckpointRow.step).where(CheckpointRow.deleted_at.is_not(None))
    for home, expected in ((tmp_path, []), (lab.home, [1])):
        Sweep(host_of(lab, home=str(home)))()
        with lab.sessions.begin() as session:
            assert session.scalar(select(func.count()).select_from(Worker)) == 0
            assert session.scalars(deleted).all() == expected
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_what_cannot_be_deleted_is_not_called_deleted_and_keeps_nothing_else_from_going(lab: Lab) -> None:
    stuck_run, run_id = lab.launch(), lab.launch()
    with lab.sessions.begin() as session:
        for each in (stuck_run, run_id):
            runs.stop(session, each, keep=False).discarded_at = datetime(2026, 1, 1, tzinfo=UTC)
    lab.launch()
    with held(lab) as holding:
        turn_until(holding, Doing.WATCHING)
        folders = [publish(lab, holding, step) for step in (1, 2, 3, 4)]
    with lab.sessions.begin() as session:
        session.add(Worker(name="a", place=holding.host.place))
    for stuck in (folders[0], lab.home / "runs" / str(stuck_run)):
        shutil.rmtree(stuck, ignore_errors=True)
        stuck.write_text("what `rmtree` refuses")
    sweep = Sweep(holding.host)
    sweep()
    with lab.sessions.begin() as session:
        gone = session.execute(select(CheckpointRow.step).where(CheckpointRow.deleted_at.is_not(None)))
        assert gone.scalars().all() == [2]
    assert [bool(lab.run(each).facts.get("purged")) for each in (stuck_run, run_id)] == [False, True]


def test_what_keeps_runs_from_being_started_is_said_once_until_it_is_over(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(settings_of(lab, devices="cpu"))
    for supervisor.has_room in (False, False, True, True, False):
        assert supervisor._is_free("cpu") is supervisor.has_room
    assert caplog.text.count("no run is started on cpu: The disk of the runs is full.") == 2


def test_a_second_host_of_one_name_ends_no_run_of_the_first_and_takes_its_place_when_it_is_silent(
    lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = lab.launch()
    assert Supervisor(settings_of(lab, devices="cpu"))._start()
    first = Supervisor(settings_of(lab, devices="cpu"))
    assert first._start(), "one that was restarted takes its place at once"
    first._look()
    assert lab.run(run_id).holder == "a"
    second = elsewhere(lab, tmp_path)
    assert not second._start()
    second._look()
    assert (lab.run(run_id).holder, lab.run(run_id).attempt) == ("a", 1)
    assert caplog.text.count("give each a name of its own: STUDIO_WORKER_NAME") == 1

    lab.wait(second._start, "the second one to have watched the first one be silent", 20)
    assert lab.run(run_id).state == State.QUEUED
    first.holdings.clear()
    first._look()
    assert lab.run(run_id).attempt == 1, "the first one sees that its name is taken"
    second._look()
    assert lab.run(run_id).attempt == 2


def test_a_host_that_could_tell_no_sign_of_life_for_long_is_not_robbed_by_the_first_look_of_another_of_its_name(
    lab: Lab, tmp_path: Path
) -> None:
    """After an outage of Postgres each host's last one is old, and so it is where Postgres' clock jumps ahead."""
    run_id = lab.launch()
    first, second = Supervisor(settings_of(lab, devices="cpu")), elsewhere(lab, tmp_path)
    assert first._start()
    first._look()
    with lab.sessions.begin() as session:
        session.execute(update(Worker).values(seen_at=Worker.seen_at - timedelta(hours=1)))
    assert not second._start()
    first._look()
    assert not second._start()
    assert (lab.run(run_id).holder, lab.run(run_id).attempt) == ("a", 1)
    assert list(first.holdings) == ["cpu"]


def test_a_host_that_froze_before_it_claims_and_wakes_when_its_name_is_anothers_ends_no_run_of_that_one(
    lab: Lab, tmp_path: Path
) -> None:
    first, second = Supervisor(settings_of(lab, devices="cpu")), elsewhere(lab, tmp_path)
    assert first._start()
    lab.wait(second._start, "the second one to have watched the first one be silent", 20)
    run_id = lab.launch()
    second._look()
    first._claim("cpu", [])
    assert (lab.run(run_id).holder, lab.run(run_id).attempt) == ("a", 1)
    assert not first.holdings


def test_a_host_that_froze_while_it_cleared_up_and_wakes_when_its_name_is_anothers_ends_no_run_of_that_one(
    lab: Lab, tmp_path: Path
) -> None:
    run_id, second = lab.launch(), elsewhere(lab, tmp_path)

    class Freezing(Supervisor):
        def _clear(self, folder: Path) -> None:
            super()._clear(folder)
            lab.wait(second._start, "the second one to have watched the first one be silent", 20)
            second._look()

    with held(lab):
        assert not Freezing(settings_of(lab, devices="cpu"))._start()
    assert (lab.run(run_id).holder, lab.run(run_id).attempt) == ("a", 2)


def test_a_supervisor_that_waits_for_postgres_can_be_ended(lab: Lab) -> None:
    lab.environment["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/nothing"
    with lab.host() as host:
        lab.wait(lambda: "cannot be reached" in lab.logs(), "the supervisor to look for Postgres", 30)
        host.terminate()
        assert host.wait(timeout=15) == 0


def test_a_trainer_that_cannot_be_killed_keeps_its_restarted_host_from_nothing_else(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs in a driver takes no signal; here it is one that leads no group, and so hears none."""
    monkeypatch.setattr(spares, "KILL_SECONDS", 0.3)
    run_id = lab.launch()
    with held(lab) as holding, subprocess.Popen(["/bin/sleep", "60"]) as stuck:
        holding.folder.mkdir(parents=True)
        about = {"pid": stuck.pid, "started": spares.started_at(stuck.pid)}
        (holding.folder / spares.PROCESS).write_text(json.dumps(about))
        supervisor = Supervisor(settings_of(lab, worker_name="a", devices="cpu"))
        assert supervisor._start()
        assert stuck.poll() is None
        stuck.kill()
    assert (lab.run(run_id).state, lab.run(run_id).holder) == (State.QUEUED, None), "another device may take it"


def left_by(lab: Lab, run_id: UUID, *names: str) -> list[Path]:
    folders = [lab.home / "runs" / str(run_id) / name for name in names]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "weights").write_text("…")
    return folders


def still_there(lab: Lab) -> set[str]:
    return {path.relative_to(path.parents[2]).as_posix() for path in (lab.home / "runs").glob("*/*/*/*")}


@pytest.mark.parametrize(("state", "is_over"), [(State.TRAINING, False), (State.QUEUED, True)])
def test_what_killed_trainers_left_half_written_is_deleted_and_nothing_else(
    lab: Lab, state: State, is_over: bool
) -> None:
    run_id = lab.launch()
    with lab.sessions.begin() as session:
        run = session.get_one(Run, run_id)
        run.state, run.attempt, run.begun = state, 11, 10
        run.holder, run.lease_until = (None, None) if is_over else ("a", func.clock_timestamp())
    dead = "attempt-9/artifacts/.tmp-merged"
    whole = "attempt-10/checkpoints/checkpoint-4"
    current = {"attempt-11/checkpoints/.tmp-checkpoint-12", "attempt-11/artifacts/adapter"}  # somebody may be at it
    left_by(lab, run_id, dead, whole, *current)
    assert tidy(host_of(lab), lab.home / "runs" / str(run_id))
    assert still_there(lab) == {whole} | (set() if is_over else current)


def test_what_a_trainer_published_that_nobody_told_of_goes_once_another_attempt_owns_the_history(lab: Lab) -> None:
    run_id = lab.launch()
    names = (
        "attempt-1/checkpoints/checkpoint-4",  # the next attempt went on from a newer one
        "attempt-1/checkpoints/checkpoint-8",
        "attempt-1/artifacts/adapter",
        "attempt-2/checkpoints/checkpoint-12",  # may be taken up yet
        "attempt-3/checkpoints/checkpoint-16",
    )
    left_by(lab, run_id, *names)
    with lab.sessions.begin() as session:
        run = session.get_one(Run, run_id)
        run.attempt, run.begun = 3, 2
        session.add(Attempt(run_id=run_id, number=1, worker="a", device="cpu"))
        session.flush()
        told = {"step": 8, "attempt": 1, "manifest_sha256": "0" * 64, "bytes": 1}
        session.add(CheckpointRow(run_id=run_id, folder=f"runs/{run_id}/{names[1]}", **told))
    assert tidy(host_of(lab), lab.home / "runs" / str(run_id))
    assert still_there(lab) == {names[1], names[3], names[4]}


@pytest.fixture
def untidy(lab: Lab) -> Path:
    """What an attempt left that another one has followed."""
    run_id = lab.launch()
    with lab.sessions.begin() as session:
        run = session.get_one(Run, run_id)
        run.attempt = run.begun = 2
    return left_by(lab, run_id, f"attempt-1/{CHECKPOINTS}/checkpoint-4")[0]


def test_what_nobody_told_of_goes_once_a_backup_is_over(lab: Lab, untidy: Path) -> None:
    sweep = Sweep(host_of(lab))
    with backup.connected(lab.database_url) as connection, backup.keeping_files(connection):
        sweep()
        assert untidy.exists()
    sweep()
    assert not untidy.exists()


def test_what_a_killed_supervisor_did_not_tidy_up_goes_when_one_starts(lab: Lab, untidy: Path) -> None:
    with lab.host():
        lab.wait(lambda: not untidy.exists(), "what was left to go", 30)


def test_a_run_is_tidied_up_once_postgres_is_back(lab: Lab) -> None:
    host = host_of(lab)
    sweep = Sweep(host)
    sweep()
    run_id = lab.launch()
    (draft,) = left_by(lab, run_id, f"attempt-0/{CHECKPOINTS}/.tmp-checkpoint-4")
    sweep.has_ended(draft.parents[2])
    there, host.sessions = host.sessions, sessionmaker(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing"))
    with pytest.raises(DBAPIError):
        sweep()
    assert draft.exists()
    host.sessions = there
    sweep()
    assert not draft.exists()


def test_a_writer_that_lives_on_cannot_publish_what_is_left_of_its_draft(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes a file in a folder that is being deleted, which so remains, without all that was in it."""
    run_id = lab.launch()
    (draft,) = left_by(lab, run_id, f"attempt-0/{CHECKPOINTS}/.tmp-checkpoint-4")

    def remove(folder: Path) -> bool:
        with pytest.raises(FileNotFoundError):
            (draft / "optimizer").write_text("…")
        return disk.remove(folder)

    monkeypatch.setattr("worker.sweep.remove", remove)
    assert tidy(host_of(lab), draft.parents[2])
    assert still_there(lab) == set()


def test_what_goes_wrong_while_a_run_is_tidied_up_is_told_and_keeps_no_other_from_it(
    lab: Lab, untidy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (lab.home / "runs" / "a-run" / "attempt-1" / CHECKPOINTS / "checkpoint-4").mkdir(parents=True)
    sweep = Sweep(host_of(lab))
    for run_folder in (lab.home / "runs" / "a-run", untidy.parents[2]):
        sweep.has_ended(run_folder)
    sweep()
    assert f"tidying {lab.home / 'runs' / 'a-run'} went wrong" in caplog.text
    assert not untidy.exists()


def test_a_folder_that_cannot_be_read_keeps_no_other_run_from_being_tidied_up(
    lab: Lab, untidy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a damaged file system answers."""
    damaged = lab.home / "runs" / "damaged"
    damaged.mkdir()
    glob = Path.glob

    def fail(path: Path, pattern: str) -> Iterator[Path]:
        if path == damaged:
            raise OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN))
        return iter(glob(path, pattern))

    monkeypatch.setattr(Path, "glob", fail)
    Sweep(host_of(lab))()
    assert f"{damaged} cannot be looked at" in caplog.text
    assert not untidy.exists()
