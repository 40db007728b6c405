"""Who may write what of a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select, update

from backend.core import history, runs
from backend.core.assignment import Checkpoint, Outcome
from backend.core.errors import Conflict, Fenced, Invalid, NotFound, Problem
from backend.core.models import AmendmentRow, Attempt, CheckpointRow, Intent, Outbox, Run, RunEvent, State
from backend.core.recipe import read_recipe
from tests.core.conftest import RECIPE, Sessions

LIMITS = runs.Limits()
NewRun = Callable[[], Run]
DEVICES = (f"cuda:{number}" for number in itertools.count())
"""Each claim is for another: one that is held is given no second run."""


def claim(sessions: Sessions, worker: str = "a", **options: object) -> runs.Token | None:
    with sessions.begin() as session:
        return runs.claim(
            session,
            worker=worker,
            device=next(DEVICES),
            place="here",
            lease_seconds=30,
            limits=LIMITS,
            **options,  # type: ignore[arg-type]
        )


def claimed(sessions: Sessions, worker: str = "a") -> runs.Token:
    token = claim(sessions, worker)
    assert token is not None
    return token


def seen_leases(sessions: Sessions) -> list[runs.Lease]:
    with sessions.begin() as session:
        return runs.leases(session)


def state_of(sessions: Sessions, run_id: UUID) -> tuple[str, str]:
    with sessions.begin() as session:
        run = runs.find(session, run_id)
        return run.state, run.intent


def save(sessions: Sessions, token: runs.Token, step: int) -> None:
    with sessions.begin() as session:
        run = runs.hold(session, token)
        row = CheckpointRow(
            run_id=run.id,
            attempt=token.attempt,
            step=step,
            folder=f"runs/{run.id}/attempt-{token.attempt}/checkpoints/checkpoint-{step}",
            manifest_sha256="0" * 64,
            bytes=1,
        )
        runs.publish_checkpoint(session, run, row, place="here")


def reap(sessions: Sessions, token: runs.Token, outcome: Outcome | None, cause: Problem | None = None) -> str:
    with sessions.begin() as session:
        return runs.reap(session, token, runs.Ending(outcome, cause), LIMITS)


def test_a_new_run_and_its_hint_are_one_transaction(sessions: Sessions, new_run: NewRun) -> None:
    run = new_run()
    with sessions.begin() as session:
        assert session.execute(select(Outbox.subject)).scalars().all() == [str(run.id)]
        assert session.execute(select(RunEvent.kind)).scalars().all() == ["state"]
    assert state_of(sessions, run.id) == (State.QUEUED, Intent.RUN)


def test_runs_of_one_name_are_numbered(new_run: NewRun) -> None:
    assert [new_run().name for _ in range(3)] == ["owls", "owls 2", "owls 3"]


def test_runs_of_the_longest_name_are_numbered_too(sessions: Sessions) -> None:
    recipe = read_recipe(RECIPE | {"name": "n" * 80}).recipe
    with sessions.begin() as session:
        names = [runs.create(session, recipe=recipe, model={"path": "tiny"}, data=[]).name for _ in range(3)]
    assert names == ["n" * 80, "n" * 74 + " 2", "n" * 74 + " 3"]


def test_fifty_claimants_at_once_get_a_run_once(sessions: Sessions, new_run: NewRun) -> None:
    new_run()
    with ThreadPoolExecutor(5) as pool:
        tokens = [token for token in pool.map(lambda i: claim(sessions, f"w{i}"), range(50)) if token]
    assert [token.attempt for token in tokens] == [1]


def test_the_oldest_run_is_claimed_first(sessions: Sessions, new_run: NewRun) -> None:
    first, second = new_run(), new_run()
    assert [claimed(sessions).run_id, claimed(sessions).run_id] == [first.id, second.id]


def test_a_lease_that_was_not_watched_is_not_taken_however_old(sessions: Sessions, new_run: NewRun) -> None:
    new_run()
    token = claimed(sessions, "a")
    with sessions.begin() as session:
        run = runs.hold(session, token)
        runs.extend(session, run, -3600)
    assert claim(sessions, "b") is None


def test_a_watched_lease_is_taken_unless_it_was_renewed_meanwhile(sessions: Sessions, new_run: NewRun) -> None:
    new_run()
    token = claimed(sessions, "a")
    seen = seen_leases(sessions)
    with sessions.begin() as session:
        runs.renew(session, token, 30)
    assert claim(sessions, "b", expired=seen) is None
    assert claim(sessions, "b", expired=seen_leases(sessions)) == runs.Token(token.run_id, 2)


def test_a_holder_that_was_replaced_can_write_nothing(sessions: Sessions, new_run: NewRun) -> None:
    new_run()
    old = claimed(sessions, "a")
    assert claim(sessions, "b", expired=seen_leases(sessions))
    for write in (
        lambda session: runs.renew(session, old, 30),
        lambda session: runs.reap(session, old, runs.Ending(Outcome.DONE), LIMITS),
        lambda session: runs.give_up(session, old, LIMITS),
        lambda session: history.begin(session, old, None, adopted=None, place="here"),
    ):
        with pytest.raises(Fenced), sessions.begin() as session:
            write(session)


def test_a_lease_that_ran_out_unclaimed_revives(sessions: Sessions, new_run: NewRun) -> None:
    new_run()
    token = claimed(sessions)
    with sessions.begin() as session:
        runs.extend(session, runs.hold(session, token), -3600)
    with sessions.begin() as session:
        assert runs.renew(session, token, 30).state == State.PREPARING


def test_an_attempt_that_was_given_up_cannot_be_used_again(sessions: Sessions, new_run: NewRun) -> None:
    new_run()
    token = claimed(sessions)
    assert reap(sessions, token, Outcome.PAUSED) == State.QUEUED
    with pytest.raises(Fenced), sessions.begin() as session:
        runs.renew(session, token, 30)


@pytest.mark.parametrize(
    ("outcome", "intent", "expected"),
    [
        (Outcome.DONE, Intent.RUN, State.SUCCEEDED),
        (Outcome.DONE, Intent.PAUSE, State.SUCCEEDED),
        (Outcome.DONE, Intent.KEEP, State.STOPPED),
        (Outcome.DONE, Intent.STOP, State.STOPPED),
        (Outcome.PAUSED, Intent.PAUSE, State.PAUSED),
        (Outcome.PAUSED, Intent.RUN, State.QUEUED),
        (Outcome.PAUSED, Intent.STOP, State.STOPPED),
        (Outcome.EMPTY, Intent.KEEP, State.STOPPED),
        (Outcome.FAILED, Intent.RUN, State.FAILED),
        (Outcome.FAILED, Intent.KEEP, State.FAILED),
        (Outcome.FAILED, Intent.PAUSE, State.PAUSED),
        (Outcome.FAILED, Intent.STOP, State.STOPPED),
        (None, Intent.RUN, State.QUEUED),
        (None, Intent.PAUSE, State.PAUSED),
        (None, Intent.STOP, State.STOPPED),
        (None, Intent.KEEP, State.QUEUED),
    ],
)
def test_a_trainers_end_and_the_last_word_decide_the_state(
    sessions: Sessions, new_run: NewRun, outcome: Outcome | None, intent: Intent, expected: State
) -> None:
    new_run()
    token = claimed(sessions)
    with sessions.begin() as session:
        runs.hold(session, token).intent = intent
    assert reap(sessions, token, outcome, Problem("x", "because")) == expected
    with sessions.begin() as session:
        run = runs.find(session, token.run_id)
        assert run.lease_until is None
        assert run.holder is None
        assert (run.cause is not None) == (expected == State.FAILED)


def test_three_deaths_without_a_newer_checkpoint_are_enough(sessions: Sessions, new_run: NewRun) -> None:
    run = new_run()
    states = [reap(sessions, claimed(sessions), None, Problem("died", "It was killed.")) for _ in range(3)]
    assert states == [State.QUEUED, State.QUEUED, State.FAILED]
    with sessions.begin() as session:
        assert "died 3 times in a row" in (runs.find(session, run.id).cause or {})["message"]


def test_a_newer_checkpoint_renews_the_patience(sessions: Sessions, new_run: NewRun) -> None:
    new_run()
    for step in (10, 20, 30, 40):
        token = claimed(sessions)
        save(sessions, token, step)
        assert reap(sessions, token, None) == State.QUEUED


def test_ten_attempts_of_any_cause_wait_for_a_person(sessions: Sessions, new_run: NewRun) -> None:
    run = new_run()
    for _ in range(10):
        claimed(sessions)
        with sessions.begin() as session:
            runs.free_own(session, "a", LIMITS)
    assert state_of(sessions, run.id) == (State.PAUSED, Intent.PAUSE)
    assert claim(sessions) is None
    with sessions.begin() as session:
        runs.resume(session, run.id)
    assert claim(sessions) is not None


def test_a_restarted_supervisor_frees_only_what_is_still_its_own(sessions: Sessions, new_run: NewRun) -> None:
    mine, theirs = new_run(), new_run()
    claimed(sessions, "a")
    claimed(sessions, "b")
    with sessions.begin() as session:
        assert runs.free_own(session, "a", LIMITS) == [mine.id]
    assert state_of(sessions, theirs.id)[0] == State.PREPARING
    with sessions.begin() as session:
        assert runs.find(session, mine.id).crashes == 0


def test_what_a_host_holds_on_a_device_goes_back_without_what_it_holds_on_others(
    sessions: Sessions, new_run: NewRun
) -> None:
    """As after a claim whose answer was lost: nothing is at work on that device."""
    unheard, at_work = new_run(), new_run()
    claimed(sessions)
    claimed(sessions)
    with sessions.begin() as session:
        device = session.execute(select(Attempt.device).where(Attempt.run_id == unheard.id)).scalar_one()
        assert runs.free_own(session, "a", LIMITS, device=device) == [unheard.id]
        assert runs.free_own(session, "a", LIMITS, device=device) == []
    assert (state_of(sessions, unheard.id)[0], state_of(sessions, at_work.id)[0]) == (State.QUEUED, State.PREPARING)


def test_the_web_ends_what_nobody_holds(sessions: Sessions, new_run: NewRun) -> None:
    paused, discarded, kept = new_run(), new_run(), new_run()
    with sessions.begin() as session:
        runs.pause(session, paused.id)
        runs.stop(session, discarded.id, keep=False)
        runs.stop(session, kept.id, keep=True)
    assert state_of(sessions, paused.id) == (State.PAUSED, Intent.PAUSE)
    assert state_of(sessions, discarded.id) == (State.STOPPED, Intent.STOP)
    assert state_of(sessions, kept.id) == (State.STOPPED, Intent.KEEP)


def test_keeping_a_paused_run_that_has_a_checkpoint_asks_a_worker_for_the_export(
    sessions: Sessions, new_run: NewRun
) -> None:
    run = new_run()
    token = claimed(sessions)
    save(sessions, token, 10)
    with sessions.begin() as session:
        runs.pause(session, run.id)
    assert reap(sessions, token, Outcome.PAUSED) == State.PAUSED
    with sessions.begin() as session:
        runs.stop(session, run.id, keep=True)
    assert state_of(sessions, run.id) == (State.QUEUED, Intent.KEEP)
    assert claim(sessions) is not None


def test_any_supervisor_ends_a_run_whose_holder_is_gone(sessions: Sessions, new_run: NewRun) -> None:
    run = new_run()
    claimed(sessions, "gone")
    with sessions.begin() as session:
        runs.stop(session, run.id, keep=False)
    assert claim(sessions, "b", expired=seen_leases(sessions)) is None
    with sessions.begin() as session:
        assert runs.end_unheld(session, runs.leases(session), LIMITS) == [run.id]
    assert state_of(sessions, run.id) == (State.STOPPED, Intent.STOP)


def test_a_resume_that_races_a_pause_wins(sessions: Sessions, new_run: NewRun) -> None:
    run = new_run()
    token = claimed(sessions)
    with sessions.begin() as session:
        runs.pause(session, run.id)
    with sessions.begin() as session:
        runs.resume(session, run.id)
    assert reap(sessions, token, Outcome.PAUSED) == State.QUEUED


def test_a_run_that_waited_goes_back_into_the_queue_when_its_discard_is_undone(
    sessions: Sessions, new_run: NewRun
) -> None:
    run = new_run()
    with sessions.begin() as session:
        runs.stop(session, run.id, keep=False)
    with sessions.begin() as session:
        runs.restore(session, run.id, hours=24)
    assert state_of(sessions, run.id) == (State.QUEUED, Intent.RUN)
    claimed(sessions)


def test_a_discard_can_be_undone_for_a_day(sessions: Sessions, new_run: NewRun) -> None:
    run = new_run()
    with sessions.begin() as session:
        runs.pause(session, run.id)
    with sessions.begin() as session:
        runs.stop(session, run.id, keep=False)
    with sessions.begin() as session:
        runs.restore(session, run.id, hours=24)
    assert state_of(sessions, run.id) == (State.PAUSED, Intent.PAUSE)
    with sessions.begin() as session:
        runs.stop(session, run.id, keep=False)
    with pytest.raises(Conflict, match="brought back"), sessions.begin() as session:
        runs.restore(session, run.id, hours=0)


def test_what_cannot_be_done_is_said_with_the_state(sessions: Sessions, new_run: NewRun) -> None:
    run = new_run()
    reap(sessions, claimed(sessions), Outcome.DONE)
    for act in (runs.pause, runs.resume):
        with pytest.raises(Conflict, match="it is succeeded"), sessions.begin() as session:
            act(session, run.id)
    with pytest.raises(NotFound, match="no run “nobody”"), sessions.begin() as session:
        runs.find(session, "nobody")


def test_a_run_waits_for_the_storage_that_holds_its_checkpoints(sessions: Sessions, new_run: NewRun) -> None:
    run = new_run()
    token = claimed(sessions)
    save(sessions, token, 10)
    reap(sessions, token, None)
    with sessions.begin() as session:
        elsewhere = {"device": "cpu", "place": "there", "lease_seconds": 30, "limits": LIMITS}
        assert runs.claim(session, worker="b", **elsewhere) is None  # type: ignore[arg-type]
        runs.start_over(session, run.id)
        assert runs.claim(session, worker="b", **elsewhere) is not None  # type: ignore[arg-type]
        assert runs.published(session, run.id) == []


def test_beginning_from_an_older_checkpoint_replaces_the_newer_ones(
    sessions: Sessions, new_run: NewRun, tmp_path: object
) -> None:
    new_run()
    token = claimed(sessions)
    save(sessions, token, 10)
    save(sessions, token, 20)
    reap(sessions, token, None)
    second = claimed(sessions)
    with sessions.begin() as session:
        older = Checkpoint(folder=f"{tmp_path}", step=10, attempt=1)
        history.begin(session, second, older, adopted=None, place="here")
        assert [row.step for row in runs.published(session, second.run_id)] == [10]
        closed = session.get(Attempt, (second.run_id, 1))
        assert closed is not None
        assert closed.closed_at is not None


def test_a_begin_whose_answer_was_lost_changes_nothing_when_it_comes_again(
    sessions: Sessions, new_run: NewRun, tmp_path: Path
) -> None:
    run = new_run()
    token = claimed(sessions)
    with sessions.begin() as session:
        history.begin(session, token, None, adopted=None, place="here")
    reap(sessions, token, None)
    second = claimed(sessions)
    found = Checkpoint(folder=tmp_path, step=10, attempt=1)
    for _ in range(2):
        row = CheckpointRow(run_id=run.id, attempt=1, step=10, folder="x", manifest_sha256="0" * 64, bytes=1)
        with sessions.begin() as session:
            history.begin(session, second, found, adopted=row, place="here")
    with sessions.begin() as session:
        assert [row.step for row in runs.published(session, run.id)] == [10]
        kinds = list(session.execute(select(RunEvent.kind).order_by(RunEvent.seq)).scalars())
    assert kinds.count("rewound") == 1


def test_only_as_many_checkpoints_are_kept_as_the_recipe_says(sessions: Sessions, new_run: NewRun) -> None:
    new_run()
    token = claimed(sessions)
    for step in (10, 20, 30):
        save(sessions, token, step)
    with sessions.begin() as session:
        assert [row.step for row in runs.published(session, token.run_id)] == [30, 20]


def test_an_amendment_must_leave_a_valid_recipe(sessions: Sessions, new_run: NewRun) -> None:
    run = new_run()
    with sessions.begin() as session:
        row = runs.amend(session, run.id, "training.learning_rate", 1e-5, by=None)
        assert row.sequence == 1
    with pytest.raises(Invalid), sessions.begin() as session:
        runs.amend(session, run.id, "training.learning_rate", -1, by=None)
    for field, value in (("training.max_steps", -1), ("evaluation.sample_steps", "auto")):
        with pytest.raises(Invalid, match="needs a number"), sessions.begin() as session:
            runs.amend(session, run.id, field, value, by=None)
    with pytest.raises(Invalid, match="cannot be changed in mid-run"), sessions.begin() as session:
        runs.amend(session, run.id, "method.r", 4, by=None)


def test_no_more_changes_wait_than_a_trainer_takes_at_once(sessions: Sessions, new_run: NewRun) -> None:
    run_id = new_run().id
    with sessions.begin() as session:
        for _ in range(runs.PENDING):
            runs.amend(session, run_id, "training.learning_rate", 1e-5, by=None)
    with pytest.raises(Conflict, match="50 changes of “owls” do not hold yet") as told, sessions.begin() as session:
        runs.amend(session, run_id, "training.learning_rate", 1e-5, by=None)
    assert told.value.hint
    with sessions.begin() as session:
        session.execute(update(AmendmentRow).where(AmendmentRow.sequence == 1).values(step=4))
        assert runs.amend(session, run_id, "training.learning_rate", 1e-5, by=None).sequence == runs.PENDING + 1


@pytest.mark.parametrize(
    ("count", "letters", "words"),
    [(runs.CHANGES, 1, "was changed 500 times"), (9, 1 << 20, "The changes of “owls” fill 8 MiB")],
    ids=["number", "bytes"],
)
def test_a_run_takes_changes_up_to_a_number_and_a_size(
    sessions: Sessions, new_run: NewRun, count: int, letters: int, words: str
) -> None:
    run_id = new_run().id
    made = {"run_id": run_id, "field": "evaluation.prompts", "value": ["a" * letters]}
    with sessions.begin() as session:
        session.add_all(AmendmentRow(**made, sequence=step, step=step) for step in range(1, count - 1))
    with sessions.begin() as session:
        runs.amend(session, run_id, "training.learning_rate", 1e-5, by=None)
        session.add(AmendmentRow(**made, sequence=count, step=count))
    with pytest.raises(Conflict, match=words) as told, sessions.begin() as session:
        runs.amend(session, run_id, "training.learning_rate", 1e-5, by=None)
    assert told.value.hint.startswith("Clone it")
