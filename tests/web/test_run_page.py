"""What the page of a run, and the API behind it, say of a run with a life behind it."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from backend.core import journal, runs
from backend.core.assignment import LineKind, Outcome
from backend.core.errors import Problem
from backend.core.events import EventKind
from backend.core.models import Intent, Point, Role, Run, RunEvent, Worker
from backend.core.outlook import outlook
from backend.core.yaml12 import read_yaml
from backend.web.pages.runs import described
from backend.web.render import roughly
from tests.support.showcase import BEST_STEP, STEP_SECONDS, Course, rich_run, told_to
from tests.web.conftest import account, client_of, queued_run

SHORT = Course(steps=130, total=200, steps_a_pass=100)
OUT_OF_MEMORY = Problem("out_of_memory", "Out of memory at step 132: batch 8 × 2,048 tokens.", hint="Try batch 4.")


@pytest.fixture
def rich(session: Session) -> Run:
    return rich_run(session, "rich", course=SHORT)[0]


# ---- how far it is --------------------------------------------------------------------------------------------------


def test_pace_and_time_left_follow_from_the_newest_steps(session: Session, rich: Run) -> None:
    found = outlook(session, rich)
    assert found.steps_a_pass == 100
    assert found.step_seconds == pytest.approx(STEP_SECONDS)
    assert found.left_seconds == pytest.approx(STEP_SECONDS * 70)
    assert found.busy_seconds == pytest.approx(130 * STEP_SECONDS + 40, abs=10)


async def test_the_passes_asked_for_are_the_passes_shown_in_the_midst_of_one(
    admin: httpx.AsyncClient, session: Session, rich: Run
) -> None:
    rich_steps = RunEvent.run_id == rich.id, RunEvent.kind == EventKind.METRICS, RunEvent.step == 130
    session.execute(update(RunEvent).where(*rich_steps).values(data={"values": {}, "epoch": 32 + 2 * 16 / 49}))
    session.commit()
    assert "pass 32.50 of 50<" in (await admin.get("/runs/rich")).text


def test_the_figures_are_what_the_points_say(session: Session, rich: Run) -> None:
    found = outlook(session, rich)
    points = {(name, step): value for name, step, value in session.execute(select(Point.name, Point.step, Point.value))}
    assert found.best
    assert (found.best.step, found.best.eval_loss) == (120, points["eval_loss", 120])
    assert found.best.loss == points["loss", 120]
    clipped = sum(points["grad_norm", step] > 1 for step in range(1, 131))
    assert found.clipped_share == clipped / 130
    assert found.peak_memory_gib == max(points["memory_gib", step] for step in range(1, 131))
    assert (found.device, found.device_bytes) == ("NVIDIA RTX 4090", 24 << 30)


def test_a_measurement_that_is_no_number_is_never_the_best(session: Session, rich: Run) -> None:
    session.execute(update(Point).where(Point.name == "eval_loss", Point.step == 120).values(value=math.nan))
    best = outlook(session, rich).best
    assert best
    assert best.step == 60


def test_a_waiting_run_knows_who_goes_before_it_and_whether_anybody_is_there(session: Session) -> None:
    first, second = queued_run(session, "first"), queued_run(session, "second")
    for run, before in ((first, 0), (second, 1)):
        queue = outlook(session, run).queue
        assert queue
        assert (queue.before, queue.workers, queue.busy) == (before, 0, ())
    session.add(Worker(name="box", place="here", facts={}, seen_at=datetime.now(UTC)))
    session.add(Worker(name="silent", place="here", facts={}, seen_at=datetime.now(UTC) - timedelta(minutes=2)))
    session.flush()
    queue = outlook(session, second).queue
    assert queue
    assert queue.workers == 1


@pytest.mark.parametrize(("seconds", "said"), [(4.4, 4.4), (94, 90), (1817, 1800), (9000, 9000), (9300, 9600)])
def test_an_estimate_says_no_more_than_it_knows(seconds: float, said: float) -> None:
    assert roughly(seconds) == pytest.approx(said, abs=300 if seconds > 7200 else 0.1)


# ---- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rich")
async def test_the_page_says_how_far_the_run_is(member: httpx.AsyncClient) -> None:
    text = (await member.get("/runs/rich")).text
    for said in (
        "Step 130 of 200",
        "pass 1.30 of 2",
        "You can close this page.",
        "best 1.",
        "of 24, peak",
        "2.9 s a step",
    ):
        assert said in text, said


async def test_the_page_says_what_the_last_word_comes_to(
    member: httpx.AsyncClient, session: Session, rich: Run
) -> None:
    told_to(session, rich, Intent.PAUSE)
    assert "It finishes this step, saves, and frees the accelerator." in (await member.get("/runs/rich/status")).text
    runs.resume(session, rich.id)
    told_to(session, rich, Intent.KEEP)
    assert "makes the adapter and the merged model." in (await member.get("/runs/rich/status")).text


async def test_what_differs_from_the_parent_stands_beside_it(
    member: httpx.AsyncClient, session: Session, rich: Run
) -> None:
    rich_run(session, "child", parent=rich, device="cuda:1", course=Course(steps=60, total=200, rate=1e-5))
    text = (await member.get("/runs/child")).text
    assert "1 of 41 settings differ from rich" in text.replace("\n", "")
    assert "<del>2e-4</del>" in text
    assert "<ins>1e-5</ins>" in text
    assert "settings differ" not in (await member.get("/runs/rich")).text


async def test_a_failure_offers_clones_that_would_fit(member: httpx.AsyncClient, session: Session) -> None:
    course = Course(steps=70, total=200, batch=8)
    rich_run(session, "broken", course=course, ends=Outcome.FAILED, cause=OUT_OF_MEMORY)
    text = (await member.get("/runs/broken")).text
    assert "Clone with batch 4" in text
    assert "training.per_device_train_batch_size=4" in text
    assert "training.gradient_checkpointing=true" in text
    assert "method.kind=qlora" in text


async def test_a_run_that_learns_by_heart_says_since_when(member: httpx.AsyncClient, session: Session) -> None:
    rich_run(session, "long")
    text = (await member.get("/runs/long/status")).text
    assert f"Evaluation loss has risen since step {BEST_STEP}" in text
    assert "Clone with 1.4 passes" in text
    assert "max_steps" not in text


async def test_fewer_passes_come_instead_of_a_number_of_steps(member: httpx.AsyncClient, session: Session) -> None:
    run = rich_run(session, "long")[0]
    run.recipe = run.recipe | {"training": run.recipe["training"] | {"max_steps": 5000}}
    session.commit()
    assert "training.num_train_epochs=1.4&amp;training.max_steps=-1" in (await member.get("/runs/long/status")).text


@pytest.mark.usefixtures("rich")
async def test_a_viewer_is_offered_no_acts(viewer: httpx.AsyncClient) -> None:
    text = (await viewer.get("/runs/rich")).text
    assert "Tell me when it ends" in text
    for act in ('value="pause"', 'value="discard"', "clone=rich", "<textarea", "ask-amend"):
        assert act not in text, act


# ---- samples --------------------------------------------------------------------------------------------------------


def asked_at_each_step(session: Session, steps: int) -> Run:
    """A run that answers as many prompts as a recipe may have, each as long as it may be, at so many steps."""
    run = queued_run(session, "asked")
    rows = text(
        "INSERT INTO samples (run_id, step, index, prompt, text, finish, tokens) SELECT :run, step, index,"
        " index || repeat('p', 7998), 'The owl at ' || step, 'stop', 4"
        " FROM generate_series(0, :steps) step, generate_series(0, 15) index"
    )
    session.execute(rows, {"run": run.id, "steps": steps})
    session.commit()
    return run


async def test_the_page_shows_the_answers_before_training_and_the_newest_and_leads_to_those_between(
    admin: httpx.AsyncClient, session: Session
) -> None:
    run, page, shown = asked_at_each_step(session, 100), "/runs/asked", list[list[int]]()
    for _ in range(3):
        found = (await admin.get(page)).text
        (panel,) = re.findall(r'data-prompt="3">.*?</ol>', found, re.S)
        shown.append([int(step) for step in re.findall(r'data-step="(\d+)"', panel)])
        (to,) = re.findall(r'href="/runs/asked(\?to=\d+)#samples" data-earlier data-from="1"', found)
        page = f"/runs/asked{to}"
    assert [steps[0] for steps in shown] == [0, 0, 0]
    between = [step for steps in reversed(shown) for step in steps[1:]]
    assert between == list(range(between[0], 101))
    assert between[0] > 1
    assert "data-earlier" not in (await admin.get("/runs/asked?to=5")).text
    texts = [sample.prompt for sample in described(session, run).samples]
    assert sum(map(len, texts)) < 3 << 20


async def test_a_run_that_answered_a_few_times_shows_all_of_it(admin: httpx.AsyncClient, session: Session) -> None:
    asked_at_each_step(session, 10)
    found = (await admin.get("/runs/asked")).text
    assert found.count("The owl at ") == 11 * 16
    assert "data-earlier" not in found


# ---- the note -------------------------------------------------------------------------------------------------------


async def test_a_note_is_kept_and_told_to_who_follows(admin: httpx.AsyncClient, session: Session, rich: Run) -> None:
    answer = await admin.patch("/api/v1/runs/rich", json={"note": "  Rank 16.\r\nAgain.  "})
    assert answer.json()["note"] == "Rank 16.\nAgain."
    newest = journal.events(session, rich.id, answer.json()["seq"] - 1)
    assert [(event.kind, event.data) for event in newest] == [("note", {"text": "Rank 16.\nAgain."})]
    again = await admin.patch("/api/v1/runs/rich", json={"note": "Rank 16.\nAgain."})
    assert again.json()["seq"] == answer.json()["seq"], "what changes nothing is no event"


@pytest.mark.usefixtures("rich")
async def test_a_note_that_is_too_long_is_refused(admin: httpx.AsyncClient) -> None:
    assert (await admin.patch("/api/v1/runs/rich", json={"note": "x" * 2001})).status_code == 422
    assert (await admin.post("/runs/rich/note", data={"note": "x" * 2001})).status_code == 422
    assert (await admin.patch("/api/v1/runs/rich", json={"note": "x" * 2000})).status_code == 200


async def test_only_its_owner_and_administrators_write_a_note(app: FastAPI, session: Session) -> None:
    owner, other = account(session, Role.MEMBER, "owner"), account(session, Role.MEMBER, "other")
    viewer, boss = account(session, Role.VIEWER, "viewer"), account(session, Role.ADMIN, "boss")
    queued_run(session, "own", owner)
    for who, status in ((owner, 200), (other, 403), (viewer, 403), (boss, 200)):
        async with client_of(app, who.headers) as client:
            assert (await client.patch("/api/v1/runs/own", json={"note": "x"})).status_code == status


@pytest.mark.usefixtures("rich")
async def test_a_form_without_script_leads_back_to_the_run(admin: httpx.AsyncClient) -> None:
    answer = await admin.post("/runs/rich/note", data={"note": "by hand"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/rich")
    assert "by hand" in (await admin.get("/runs/rich")).text


# ---- curves, log, recipe --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rich")
async def test_times_of_steps_are_told_to_who_asks(member: httpx.AsyncClient) -> None:
    plain = (await member.get("/api/v1/runs/rich/metrics?names=loss")).json()
    assert (plain["times"], plain["steps_a_pass"]) == ([], 100)
    told = (await member.get("/api/v1/runs/rich/metrics?names=loss,eval_loss&from=10&to=12&times=true")).json()
    assert [step for step, _ in told["times"]] == [10, 11, 12]
    assert told["times"][2][1] - told["times"][0][1] == pytest.approx(2 * STEP_SECONDS)


@pytest.mark.usefixtures("rich")
async def test_the_log_is_searched_in_the_words_that_are_shown(member: httpx.AsyncClient) -> None:
    assert "Checkpoint saved at step 60" in (await member.get("/runs/rich/log")).text
    found = (await member.get("/runs/rich/log?q=SAVED at step 120")).text
    assert "Checkpoint saved at step 120" in found
    assert "step 60" not in found
    chinese = (await member.get("/runs/rich/log?q=检查点&lang=zh")).text
    assert chinese.count("data-seq") == 2
    assert "No line holds that." in (await member.get("/runs/rich/log?q=zebra&lang=en")).text


async def test_warnings_alone_can_be_looked_at(member: httpx.AsyncClient, session: Session) -> None:
    rich_run(session, "long", course=Course(steps=400))
    text = (await member.get("/runs/long/log?level=warn")).text
    assert text.count("data-seq") == 1
    assert "Row 4,112 has an empty answer." in text


async def test_the_whole_log_comes_as_text_and_as_json_lines(
    member: httpx.AsyncClient, session: Session, rich: Run
) -> None:
    text = await member.get("/api/v1/runs/rich/log")
    assert "checkpoint, 483,000,000 bytes" in text.text
    assert "rich%20log.txt" in text.headers["content-disposition"]
    lines = [json.loads(line) for line in (await member.get("/api/v1/runs/rich/log?format=jsonl")).text.splitlines()]
    session.refresh(rich)
    assert [line["seq"] for line in lines] == list(range(1, rich.seq + 1))
    assert sum(line["kind"] == "metrics" for line in lines) == 132
    assert UUID(lines[0]["run"]) == rich.id


async def test_the_recipe_comes_as_yaml_that_launches_again(member: httpx.AsyncClient, rich: Run) -> None:
    answer = await member.get("/api/v1/runs/rich/recipe")
    assert answer.headers["content-type"] == "application/yaml"
    assert read_yaml(answer.text)[0] == rich.recipe


async def test_metrics_tell_followers_when_they_were_measured(session: Session, rich: Run) -> None:
    query = select(RunEvent).where(RunEvent.run_id == rich.id, RunEvent.kind == LineKind.METRICS).limit(2)
    first, second = session.scalars(query.order_by(RunEvent.seq))
    assert second.data["t"] - first.data["t"] == pytest.approx(STEP_SECONDS)
