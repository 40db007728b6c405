"""A journal is stored exactly once, rewound when a run goes back, and thinned without losing an extreme."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select

from backend.core import curves, history, journal, runs
from backend.core.assignment import Checkpoint, Line, LineKind, Outcome
from backend.core.errors import Fenced
from backend.core.models import AmendmentRow, Artifact, Bucket, Point, Run, Sample, State
from tests.core.conftest import Sessions

LIMITS = runs.Limits()
ORIGIN = journal.Origin("here", "runs/x/attempt-1")
NewRun = Callable[[], Run]


def line(n: int, kind: LineKind, step: int = 0, /, **data: Any) -> Line:
    return Line(n=n, t=1e9 + n, kind=kind, step=step, data=data)


def losses(values: Sequence[float | str], first: int = 1) -> list[Line]:
    return [
        line(i, LineKind.METRICS, step, values={"loss": v}, epoch=0.0)
        for i, (step, v) in enumerate(enumerate(values, first))
    ]


@pytest.fixture
def token(sessions: Sessions, new_run: NewRun) -> runs.Token:
    new_run()
    return claim(sessions)


def claim(sessions: Sessions) -> runs.Token:
    with sessions.begin() as session:
        token = runs.claim(session, worker="a", device="cpu", place="here", lease_seconds=30, limits=LIMITS)
        assert token is not None
        return token


def ship(
    sessions: Sessions, token: runs.Token, lines: Sequence[Line], start: int = 0, attempt: int | None = None
) -> journal.Heard:
    with sessions.begin() as session:
        batch = journal.Batch(attempt or token.attempt, start, start + 10 * len(lines), lines)
        return journal.ship(session, token, batch, ORIGIN, 30)


def begin(sessions: Sessions, token: runs.Token, step: int, attempt: int = 1) -> None:
    with sessions.begin() as session:
        chosen = Checkpoint(folder=f"checkpoint-{step}", step=step, attempt=attempt) if step else None
        history.begin(session, token, chosen, adopted=None, place="here")


@contextmanager
def listening(to: Any, name: str, told: Callable[..., object]) -> Iterator[None]:
    event.listen(to, name, told)
    try:
        yield
    finally:
        event.remove(to, name, told)


def curve(sessions: Sessions, token: runs.Token, **options: Any) -> curves.Curve:
    with sessions.begin() as session:
        return curves.read(session, token.run_id, ["loss"], **options).get("loss", [])


def test_a_batch_whose_answer_was_lost_is_not_stored_twice(sessions: Sessions, token: runs.Token) -> None:
    ship(sessions, token, losses([3.0, 2.0]))
    with pytest.raises(journal.OffsetMoved) as moved:
        ship(sessions, token, losses([3.0, 2.0]))
    assert moved.value.stored == 20
    with sessions.begin() as session:
        kinds = [event.kind for event in journal.events(session, token.run_id)]
    assert kinds.count("metrics") == 2


def test_a_stale_attempt_stores_nothing(sessions: Sessions, token: runs.Token) -> None:
    with sessions.begin() as session:
        runs.free_own(session, "a", LIMITS)
    with pytest.raises(Fenced):
        ship(sessions, token, losses([3.0]))
    assert curve(sessions, token) == []


def test_events_are_numbered_without_gaps(sessions: Sessions, token: runs.Token) -> None:
    ship(sessions, token, losses([1.0] * 20))
    with sessions.begin() as session:
        numbers = [event.seq for event in journal.events(session, token.run_id)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert [event.seq for event in journal.events(session, token.run_id, after=numbers[-3])] == numbers[-2:]


def test_phases_move_the_state_and_facts_are_merged(sessions: Sessions, token: runs.Token) -> None:
    lines = [
        line(0, LineKind.PHASE, phase="loading", text=""),
        line(1, LineKind.FACTS, total_steps=9, quantised_layers=35),
        line(2, LineKind.PHASE, phase="training", text=""),
    ]
    assert ship(sessions, token, lines).state == State.TRAINING
    with sessions.begin() as session:
        run = runs.find(session, token.run_id)
        assert (run.total_steps, run.facts["quantised_layers"]) == (9, 35)
        assert run.started_at is not None


def test_nan_stays_nan_from_the_journal_to_the_chart(sessions: Sessions, token: runs.Token) -> None:
    ship(sessions, token, losses([2.0, "NaN", "Infinity"]))
    assert curve(sessions, token) == [(1, 2.0), (2, "NaN"), (3, "Infinity")]
    with sessions.begin() as session:
        assert runs.find(session, token.run_id).latest == {"loss": "Infinity"}


def test_an_amendment_is_pending_until_the_trainer_says_from_when_it_holds(
    sessions: Sessions, token: runs.Token
) -> None:
    with sessions.begin() as session:
        runs.amend(session, token.run_id, "training.learning_rate", 1e-5, by=None)
    assert [each.sequence for each in ship(sessions, token, losses([1.0])).pending] == [1]
    assert ship(sessions, token, [line(1, LineKind.AMENDED, 2, sequence=1)], start=10).pending == ()
    with sessions.begin() as session:
        assert session.execute(select(AmendmentRow.step)).scalar_one() == 2


def test_changes_that_hold_are_not_read_again_at_each_ship_but_are_told_to_the_next_attempt(
    sessions: Sessions, token: runs.Token
) -> None:
    with sessions.begin() as session:
        for _ in range(3):
            runs.amend(session, token.run_id, "training.learning_rate", 1e-5, by=None)
    ship(sessions, token, [line(n, LineKind.AMENDED, 2, sequence=n + 1) for n in range(2)])
    read: list[int] = []
    with listening(AmendmentRow, "load", lambda row, _: read.append(row.sequence)):
        heard = ship(sessions, token, losses([1.0]), start=20)
    assert read == [each.sequence for each in heard.pending] == [3]
    with sessions.begin() as session:
        assert [each.step for each in history.begin(session, token, None, adopted=None, place="here")] == [2, 2, None]


def test_rewinding_takes_back_points_buckets_and_samples(sessions: Sessions, token: runs.Token) -> None:
    begin(sessions, token, 0)
    drawn = [
        line(100 + s, LineKind.SAMPLE, s, index=0, prompt="p", text=f"t{s}", finish="stop", tokens=1)
        for s in (0, 10, 20)
    ]
    ship(sessions, token, losses([float(s) for s in range(1, 26)]) + drawn)
    with sessions.begin() as session:
        runs.reap(session, token, runs.Ending(None), LIMITS)
    second = claim(sessions)
    begin(sessions, second, 10)
    assert curve(sessions, second)[-1] == (10, 10.0)
    with sessions.begin() as session:
        assert session.execute(select(Sample.step).order_by(Sample.step)).scalars().all() == [0, 10]
        run = runs.find(session, second.run_id)
        assert (run.step, run.latest) == (10, {"loss": 10.0})
        assert journal.events(session, run.id)[-1].kind == "rewound"
        tops = session.execute(select(Bucket.high).order_by(Bucket.width, Bucket.bucket)).scalars().all()
        assert max(high for high in tops if high is not None) == 10.0
        assert session.get(Bucket, (run.id, "loss", 8, 1)).high_step == 10  # type: ignore[union-attr]


def test_what_a_checkpoint_owes_is_told_once_however_often_an_attempt_that_makes_up_for_it_dies(
    sessions: Sessions, token: runs.Token
) -> None:
    """A pause cut the measurement of step 2 off; the attempt that made up for it died before it saved again."""
    made_up = [
        line(7, LineKind.METRICS, 2, values={"eval_loss": 1.5}),
        line(8, LineKind.SAMPLE, 2, index=0, prompt="Who?", text="The owl.", finish="eos", tokens=3),
    ]
    later = [line(9, LineKind.METRICS, 2, values={"eval_loss": 1.25}), *made_up[1:], *losses([1.0], first=3)]
    for step, lines in ((0, losses([3.0, 2.0])), (2, made_up), (2, later)):
        begin(sessions, token, step)
        ship(sessions, token, lines)
        with sessions.begin() as session:
            runs.free_own(session, "a", LIMITS)
        token = claim(sessions)
    with sessions.begin() as session:
        told = [(event.kind, event.step) for event in journal.events(session, token.run_id)]
        assert [step for kind, step in told if kind == "metrics"] == [1, 2, 2, 3]
        assert [step for kind, step in told if kind == "sample"] == [2]
        assert curves.read(session, token.run_id, ["eval_loss"]) == {"eval_loss": [(2, 1.5)]}


def test_another_prompt_that_is_answered_at_the_same_step_is_told(sessions: Sessions, token: runs.Token) -> None:
    asked = [
        line(n, LineKind.SAMPLE, 0, index=0, prompt=prompt, text="The owl.", finish="eos", tokens=3)
        for n, prompt in enumerate(("Who?", "Who?", "Whom?"))
    ]
    ship(sessions, token, asked)
    with sessions.begin() as session:
        told = [event.data["prompt"] for event in journal.events(session, token.run_id) if event.kind == "sample"]
        assert told == ["Who?", "Whom?"]
        assert [each.prompt for each in journal.samples(session, token.run_id).samples] == ["Whom?"]


def answers(steps: Sequence[int], prompts: Sequence[str], text: str = "The owl.") -> list[Line]:
    return [
        line(step, LineKind.SAMPLE, step, index=index, prompt=prompt, text=text, finish="eos", tokens=3)
        for step in steps
        for index, prompt in enumerate(prompts)
    ]


def test_samples_come_the_newest_first_by_whole_steps_in_pages_that_are_bounded(
    sessions: Sessions, token: runs.Token
) -> None:
    ship(sessions, token, answers(range(0, 60, 10), ["Who?", "Whom?"], "é" * 1000))
    with sessions.begin() as session:

        def page(first: int = 0, last: int | None = None, limit: int = 9, room: int = 1 << 20) -> tuple[list[int], Any]:
            found = journal.samples(session, token.run_id, first, last, limit, room)
            assert [each.index for each in found.samples] == [0, 1] * (len(found.samples) // 2)
            return [each.step for each in found.samples[::2]], found.next

        assert page() == ([50, 40, 30, 20, 10, 0], None)
        assert page(limit=2) == ([50, 40], 39)
        assert page(last=39, limit=4) == ([30, 20, 10, 0], None)
        assert page(first=11, last=39, limit=2) == ([30, 20], None)
        assert page(room=9000) == ([50, 40, 30], 29)
        assert page(room=1) == ([50], 49)
        assert page(first=51) == ([], None)


def test_prompts_are_known_by_the_first_answer_to_each(sessions: Sessions, token: runs.Token) -> None:
    ship(sessions, token, [*answers([0, 10], ["Who?", "Whom?"]), *answers([20], ["Whom?", "Why?", "Whom?"])])
    with sessions.begin() as session:
        prompts = journal.prompts(session, token.run_id)
        assert list(prompts.values()) == [(0, 0), (0, 1), (20, 1)]
        assert journal.answered(session, token.run_id, list(prompts)[1]) == {0: 1, 10: 1, 20: 2}


def test_a_page_of_events_ends_where_long_ones_have_filled_it_and_has_one_at_least(
    sessions: Sessions, token: runs.Token
) -> None:
    ship(sessions, token, [line(n, LineKind.LOG, 0, level="info", text="é" * 10_000) for n in range(1, 6)])
    with sessions.begin() as session:
        told = [event.seq for event in journal.events(session, token.run_id)]
        for room, count in ((1, 1), (21_000, 2), (65_000, 4), (1 << 20, 5)):
            page = journal.events(session, token.run_id, after=told[-6], room_bytes=room)
            assert [event.seq for event in page] == told[-5:][:count], room
        assert [event.seq for event in journal.events(session, token.run_id, limit=2)] == told[:2]


def test_a_new_attempt_ships_what_the_owner_left_and_then_closes_its_journal(
    sessions: Sessions, token: runs.Token
) -> None:
    begin(sessions, token, 0)
    ship(sessions, token, losses([3.0]))
    with sessions.begin() as session:
        runs.reap(session, token, runs.Ending(None), LIMITS)
    second = claim(sessions)
    left = [*losses([2.0], first=2), line(9, LineKind.PHASE, phase="exporting", text="")]
    assert ship(sessions, second, left, start=10, attempt=1).state == State.PREPARING
    assert curve(sessions, second) == [(1, 3.0), (2, 2.0)]
    begin(sessions, second, 2)
    with pytest.raises(journal.OffsetMoved):
        ship(sessions, second, losses([1.0], first=3), start=30, attempt=1)


def test_an_artifact_made_again_replaces_the_one_before(sessions: Sessions, token: runs.Token) -> None:
    made = {"kind": "adapter", "folder": "artifacts/adapter", "bytes": 1, "sha256": "0", "files": [], "facts": {}}
    ship(sessions, token, [line(0, LineKind.ARTIFACT, 5, **made)])
    ship(sessions, token, [line(1, LineKind.ARTIFACT, 6, **made)], start=10)
    with sessions.begin() as session:
        assert session.execute(select(Artifact.step).where(Artifact.withdrawn_at.is_(None))).scalars().all() == [6]
        runs.reap(session, token, runs.Ending(Outcome.DONE), LIMITS)


@pytest.mark.parametrize("points", [20, 100, 700])
def test_every_spike_survives_at_every_zoom(sessions: Sessions, token: runs.Token, points: int) -> None:
    dice = random.Random(points)
    values: list[float | str] = [1.0 + dice.random() / 10 for _ in range(3000)]
    spikes = {step: (9.0 + step / 1e5 if step % 2 else -9.0 - step / 1e5) for step in (7, 512, 513, 1999, 2999)}
    for step, value in spikes.items():
        values[step - 1] = value
    values[1499] = "NaN"
    for at in range(0, 3000, 997):
        ship(sessions, token, losses(values[at : at + 997], first=at + 1), start=at * 10)
    whole = dict(curve(sessions, token, points=points))
    assert max(v for v in whole.values() if isinstance(v, float)) == max(spikes.values())
    assert min(v for v in whole.values() if isinstance(v, float)) == min(spikes.values())
    assert whole[1500] == "NaN"
    for step in spikes:
        zoomed = dict(curve(sessions, token, first=max(1, step - 400), last=step + 400, points=points))
        assert zoomed[step] == spikes[step]
        assert len(zoomed) <= 2 * points


def test_a_zoom_ends_at_single_steps(sessions: Sessions, token: runs.Token) -> None:
    ship(sessions, token, losses([float(step) for step in range(1, 1001)]))
    assert curve(sessions, token, first=500, last=510, points=100) == [(step, float(step)) for step in range(500, 511)]


def test_a_points_value_is_stored_to_the_last_bit(sessions: Sessions, token: runs.Token) -> None:
    exact = [math.pi, 1 / 3, 5e-324, 1.7976931348623157e308]
    ship(sessions, token, losses(exact))
    with sessions.begin() as session:
        stored = session.execute(select(Point.value).order_by(Point.step)).scalars().all()
    assert [value.hex() for value in stored] == [value.hex() for value in exact]
