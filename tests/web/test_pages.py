"""Every page, drawn with real data in both languages; forms as a browser without script sends them."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.core import people, runs
from backend.core.models import AmendmentRow, CheckpointRow, Role, Run, State, Worker
from backend.core.settings import Settings
from tests.web.conftest import ADDRESS, account, client_of, queued_run

PAGES = [
    "/",
    "/datasets",
    "/models",
    "/runs",
    "/runs/new",
    "/runs/first",
    "/runs/first/status",
    "/runs/first/artifacts",
    "/runs/first/history",
]
SECTIONS = ("you", "sessions", "tokens", "people", "workers", "storage", "audit")
PAGES += [f"/settings/{section}" for section in SECTIONS]
PAGES += ["/recipes", "/settings", "/help", "/api/docs", "/runs?state=queued", "/runs?q=fir", "/nowhere"]


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_every_page_is_drawn(admin: httpx.AsyncClient, session: Session, language: str) -> None:
    queued_run(session)
    for path in PAGES:
        answer = await admin.get(path, headers={"accept-language": language})
        assert answer.status_code == (404 if path == "/nowhere" else 200), (path, answer.text[-400:])
        if not path.endswith(("/status", "/artifacts", "/history")):
            assert f'lang="{"zh-CN" if language == "zh" else "en"}"' in answer.text, path


async def test_a_viewer_sees_the_pages_that_are_not_for_administrators(
    viewer: httpx.AsyncClient, session: Session
) -> None:
    queued_run(session)
    for path in set(PAGES) - {"/settings/people", "/settings/audit", "/nowhere"}:
        assert (await viewer.get(path)).status_code == 200, path


async def test_the_first_visit_makes_an_administrator_who_is_signed_in(
    app: FastAPI, here: Settings, session: Session
) -> None:
    link = (here.root / "run" / "setup-link").read_text().strip()
    token = link.partition("=")[2]
    async with client_of(app, {"origin": ADDRESS}) as visitor:
        assert token in (await visitor.get(link)).text
        form = {"token": token, "name": "ada", "password": "four quiet words", "again": "four quiet words"}
        assert "differ" in (await visitor.post("/setup", data=form | {"again": "other"})).text
        done = await visitor.post("/setup", data=form)
        assert (done.status_code, done.headers["location"]) == (303, "/")
        assert "httponly" in done.headers["set-cookie"].lower()
        assert "samesite=lax" in done.headers["set-cookie"].lower()
        assert "ada" in (await visitor.get("/")).text
        assert (await visitor.get(link)).status_code == 403
    assert people.find(session, "ada").role == Role.ADMIN
    assert not (here.root / "run" / "setup-link").exists()


async def test_signing_in_leads_back_and_signing_out_ends_it(app: FastAPI, session: Session) -> None:
    people.create(session, "ada", people.hash_password("four quiet words"), Role.MEMBER, by=None)
    session.commit()
    async with client_of(app, {"origin": ADDRESS}) as browser:
        asked = await browser.get("/runs?state=failed")
        assert asked.headers["location"] == "/signin?next=/runs%3Fstate%3Dfailed"
        form = {"name": "Ada", "password": "four quiet words", "next": "/runs?state=failed"}
        wrong = await browser.post("/signin", data=form | {"password": "no"})
        assert (wrong.status_code, "do not fit" in wrong.text) == (401, True)
        assert (await browser.post("/signin", data=form)).headers["location"] == "/runs?state=failed"
        page = await browser.get("/runs?state=failed")
        token = page.text.partition('data-csrf="')[2].partition('"')[0]
        assert (await browser.post("/signout", data={"csrf_token": token})).headers["location"] == "/signin"
        assert (await browser.get("/runs")).status_code == 303


async def test_guessing_passwords_is_slowed_down(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "password_matches", lambda *_: False)
    async with client_of(app) as guesser:
        for _ in range(10):
            assert (await guesser.post("/signin", data={"name": "ada", "password": "x"})).status_code == 401
        slowed = await guesser.post("/signin", data={"name": "ADA ", "password": "x"})
        assert slowed.status_code == 429


async def test_guesses_that_come_all_at_once_are_slowed_down_too(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(people, "password_matches", lambda *_: asked.append(1))
    async with client_of(app) as guesser:
        guess = {"name": "ada", "password": "x"}
        answers = await asyncio.gather(*(guesser.post("/signin", data=guess) for _ in range(25)))
    assert sorted(answer.status_code for answer in answers) == [401] * 10 + [429] * 15
    assert len(asked) == 10


async def test_an_office_that_signs_in_behind_one_address_is_not_slowed_down(
    app: FastAPI, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    account(session, Role.MEMBER, "ada")
    monkeypatch.setattr(people, "password_matches", lambda *_: True)
    async with client_of(app) as office:
        for _ in range(40):
            office.cookies.clear()
            answer = await office.post("/signin", data={"name": "ada", "password": "x"}, headers={"origin": ADDRESS})
            assert answer.status_code == 303


async def test_a_stranger_who_fails_on_purpose_locks_nobody_out_of_where_they_signed_in_before(
    app: FastAPI, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    account(session, Role.MEMBER, "ada")
    monkeypatch.setattr(people, "password_matches", lambda password, _: password == "right")
    away = httpx.ASGITransport(app, client=("198.51.100.9", 1))
    async with client_of(app) as home, httpx.AsyncClient(transport=away, base_url=ADDRESS) as stranger:

        async def tried(client: httpx.AsyncClient, password: str) -> int:
            client.cookies.clear()
            answer = await client.post(
                "/signin", data={"name": "ada", "password": password}, headers={"origin": ADDRESS}
            )
            return answer.status_code

        assert await tried(home, "right") == 303
        assert [await tried(stranger, "guess") for _ in range(11)] == [401] * 10 + [429]
        assert await tried(stranger, "right") == 429
        assert await tried(home, "right") == 303


async def test_over_https_the_cookie_belongs_to_this_host_alone(app: FastAPI, session: Session) -> None:
    people.create(session, "ada", people.hash_password("four quiet words"), Role.MEMBER, by=None)
    session.commit()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://127.0.0.1") as browser:
        form = {"name": "ada", "password": "four quiet words"}
        cookie = (await browser.post("/signin", data=form)).headers["set-cookie"]
        assert cookie.startswith("__Host-studio=")
        assert "secure" in cookie.lower()
        assert "path=/" in cookie.lower()
        assert (await browser.get("/runs")).status_code == 200


async def test_plain_http_over_a_network_is_named(admin: httpx.AsyncClient) -> None:
    words = "plain HTTP"
    assert words not in (await admin.get("/")).text
    headers = {"host": "192.168.1.5:8321"}
    assert words in (await admin.get("/", headers=headers)).text


async def test_the_language_is_kept_in_a_cookie(admin: httpx.AsyncClient) -> None:
    chosen = await admin.get("/help?lang=zh")
    assert "language=zh" in chosen.headers["set-cookie"]
    assert "set-cookie" not in (await admin.get("/help?lang=xx")).headers


async def test_a_run_is_paused_and_resumed_by_a_form(admin: httpx.AsyncClient, session: Session) -> None:
    run = queued_run(session, "two words")
    for act, state in (("pause", "paused"), ("resume", "queued"), ("discard", "stopped"), ("restore", "queued")):
        answer = await admin.post("/runs/two words/act", data={"act": act})
        assert (answer.status_code, answer.headers.get("location")) == (303, "/runs/two%20words"), answer.text
        session.refresh(run)
        assert run.state == state
    part = await admin.post("/runs/two words/act", data={"act": "pause"}, headers={"hx-request": "true"})
    assert (part.status_code, "<html" in part.text) == (200, False)


async def test_a_search_without_a_hit_says_what_was_searched(admin: httpx.AsyncClient, session: Session) -> None:
    queued_run(session)
    assert "first" in (await admin.get("/runs?q=IRS")).text
    nothing = (await admin.get("/runs?q=<b>owl")).text
    assert "No run has “&lt;b&gt;owl” in its name." in nothing
    assert "No run yet" not in nothing


async def test_a_setting_is_changed_in_mid_run_by_a_form(admin: httpx.AsyncClient, session: Session) -> None:
    run = queued_run(session)
    page = (await admin.get("/runs/first")).text
    assert 'name="training.learning_rate" value="2e-4"' in page
    form = {"training.learning_rate": "5e-4", "evaluation.sample_steps": "auto", "evaluation.prompts": "Who?\nWhy?"}
    asked = await admin.post("/runs/first/amend", data=form)
    assert (asked.status_code, asked.headers["location"]) == (303, "/runs/first")
    rows = session.scalars(select(AmendmentRow).where(AmendmentRow.run_id == run.id).order_by(AmendmentRow.sequence))
    made = {row.field: row.value for row in rows}
    assert made == {"training.learning_rate": 5e-4, "evaluation.prompts": ["Who?", "Why?"]}, "only what differs"
    again = await admin.post("/runs/first/amend", data=form, headers={"hx-request": "true"})
    assert (again.status_code, again.headers["hx-trigger"]) == (200, "done")
    history = (await admin.get("/runs/first/history")).text
    assert history.count("data-amendment=") == 2
    assert "data-step" not in history, "nobody has said yet from which step on they hold"
    assert (history.count("asked for</span>"), history.count("came too late</span>")) == (2, 0)
    session.execute(update(Run).values(state=State.SUCCEEDED, ended_at=datetime.now(UTC)))
    session.commit()
    history = (await admin.get("/runs/first/history")).text
    assert (history.count("asked for</span>"), history.count("came too late</span>")) == (0, 2), "no step will come"


async def test_a_change_that_cannot_be_is_told_at_its_field(admin: httpx.AsyncClient, session: Session) -> None:
    queued_run(session)
    form = {"training.learning_rate": "7", "evaluation.sample_steps": "0"}
    told = await admin.post("/runs/first/amend", data=form, headers={"hx-request": "true"})
    assert told.status_code == 422
    assert told.text.count("error-line") == 2, "every problem at once"
    assert 'value="7"' in told.text
    assert (await admin.post("/runs/first/amend", data=form)).status_code == 422
    assert session.scalars(select(AmendmentRow)).all() == []


@pytest.mark.parametrize("told", [False, True])
async def test_a_run_whose_host_is_gone_says_so(admin: httpx.AsyncClient, session: Session, told: bool) -> None:
    run = queued_run(session)
    token = runs.claim(session, worker="box", device="cpu", place="there", lease_seconds=60, limits=runs.Limits())
    assert token
    checkpoint = CheckpointRow(run_id=run.id, attempt=1, step=7, folder="f", manifest_sha256="0", bytes=2048)
    runs.publish_checkpoint(session, runs.lock(session, run.id), checkpoint, place="there")
    session.add(Worker(name="box", place="there", seen_at=datetime.now(UTC)))
    session.commit()
    assert "data-waits" not in (await admin.get("/runs/first/status")).text, "it was heard of just now"
    session.execute(update(Worker).values(seen_at=datetime.now(UTC) - timedelta(minutes=5)))
    if told:
        runs.stop(session, run.id, keep=True)
    session.commit()
    page = (await admin.get("/runs/first/status")).text
    assert f'data-waits="{"cut_off" if told else "host_gone"}"' in page
    assert ("Start over elsewhere" in page) is not told
    session.add(Worker(name="other", place="there", seen_at=datetime.now(UTC)))
    session.commit()
    assert ("data-waits" in (await admin.get("/runs/first/status")).text) is told, (
        "another host reaches its checkpoints"
    )
    history = (await admin.get("/runs/first/history")).text
    assert 'data-checkpoint="7"' in history
    assert 'data-attempt="1"' in history
    kept = (await admin.get("/api/v1/runs/first/checkpoints")).json()
    assert [(each["step"], each["bytes"]) for each in kept] == [(7, 2048)]
    assert [each["worker"] for each in (await admin.get("/api/v1/runs/first/attempts")).json()] == ["box"]


async def test_a_member_does_not_stop_the_run_of_another(member: httpx.AsyncClient, session: Session) -> None:
    other = account(session, Role.MEMBER, "other")
    queued_run(session, "theirs", other)
    assert (await member.post("/runs/theirs/act", data={"act": "pause"})).status_code == 403
    assert (await member.post("/api/v1/runs/theirs/stop", json={"keep": False})).status_code == 403


async def test_people_are_made_changed_and_removed(admin: httpx.AsyncClient, session: Session) -> None:
    made = await admin.post("/settings/people", data={"name": "bob", "password": "four quiet words", "role": "viewer"})
    assert made.status_code == 303
    assert (
        "already" in (await admin.post("/settings/people", data={"name": "bob", "password": "four quiet words"})).text
    )
    assert (await admin.post("/settings/people/bob", data={"role": "member"})).status_code == 303
    assert people.find(session, "bob").role == Role.MEMBER
    refused = await admin.post("/settings/people/the admin", data={"act": "remove"})
    assert (refused.status_code, "last administrator" in refused.text) == (409, True)
    assert (await admin.post("/settings/people/bob", data={"act": "remove"})).status_code == 303
    assert people.by_name(session, "bob") is None


async def test_a_token_is_shown_once(member: httpx.AsyncClient) -> None:
    made = await member.post("/settings/tokens", data={"name": "ci", "role": "member", "days": "30"})
    assert "fts_" in made.text
    secret = made.text.partition("fts_")[2][:43]
    assert secret not in (await member.get("/settings")).text
    refused = await member.post("/settings/tokens", data={"name": "ci", "role": "admin"})
    assert refused.status_code == 403


async def test_an_empty_form_is_not_scolded_and_a_wrong_one_told_at_its_field(admin: httpx.AsyncClient) -> None:
    empty = (await admin.get("/runs/new")).text
    assert "aria-invalid" not in empty
    wrong = {
        "view": "advanced",
        "model.path": "none",
        "data.sets.0.name": "none",
        "method.kind": "lora",
        "method.r": "0",
    }
    told = (await admin.post("/runs/new?view=advanced", data=wrong)).text
    assert "method.r" in told
    assert 'aria-invalid="true"' in told
    assert (await admin.post("/runs", data=wrong)).status_code == 422


async def test_the_form_and_its_yaml_say_the_same(admin: httpx.AsyncClient) -> None:
    form = {"view": "advanced", "model.path": "tiny", "data.sets.0.name": "a", "training.max_steps": "7"}
    shown = (await admin.post("/runs/new?view=yaml", data=form)).text
    assert "max_steps: 7" in shown
    text = "model: tiny\ndata:\n  sets: [a]\ntraining:\n  max_steps: 7\n"
    back = (await admin.post("/runs/new?view=advanced", data={"view": "yaml", "yaml": text})).text
    assert 'name="training.max_steps" value="7"' in back
    broken = (await admin.post("/runs/preflight", data={"view": "yaml", "yaml": "a: [1"})).text
    assert 'data-line="1"' in broken


async def test_a_failure_shows_a_number_and_keeps_its_trace_for_the_log(
    admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("backend.core.run_list.listing", broken)
    page = await admin.get("/runs")
    program = await admin.get("/api/v1/runs")
    assert (page.status_code, program.status_code) == (500, 500)
    assert "secret detail" not in page.text + program.text
    incident = program.json()["error"]["incident"]
    assert f"incident {incident}" in caplog.text
    assert "secret detail" in caplog.text
    assert page.headers["content-security-policy"]


async def test_no_secret_is_logged(app: FastAPI, here: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    token = (here.root / "run" / "setup-link").read_text().strip().partition("=")[2]
    canary = "canary-password-31415"
    async with client_of(app, {"origin": ADDRESS}) as visitor:
        form = {"token": token, "name": "ada", "password": canary, "again": canary}
        cookie = (await visitor.post("/setup", data=form)).cookies["studio"]
        page = (await visitor.get("/settings")).text
        csrf = page.partition('data-csrf="')[2].partition('"')[0]
        made = await visitor.post("/settings/tokens", data={"name": "ci", "role": "admin", "csrf_token": csrf})
        secret = "fts_" + made.text.partition("fts_")[2][:43]
        await visitor.get("/api/v1/me", headers={"authorization": f"Bearer {secret}"})
    for hidden in (canary, cookie, csrf, secret):
        assert len(hidden) > 15
        assert hidden not in caplog.text


async def test_a_data_set_is_shown_in_ink_through_a_model(
    member: httpx.AsyncClient, here: Settings, tiny_base: Path
) -> None:
    shutil.copytree(tiny_base, here.folder("models") / "tiny")
    rows = b'{"instruction": "hello", "output": "<script>alert(1)</script>"}\n'
    assert (await member.put("/api/v1/datasets/two%20words", content=rows)).status_code == 201
    assert "two words" in (await member.get("/datasets")).text
    page = (await member.get("/datasets/two words")).text
    part = await member.get("/datasets/two words/preview?model=tiny")
    assert (part.status_code, "<html" in part.text) == (200, False)
    assert "learned" in part.text
    assert "<script>alert" not in page + part.text
    refused = await member.get("/datasets/two words/preview?model=../etc")
    assert "outside the model folders" in refused.text
    deleted = await member.post("/datasets/two words/delete")
    assert deleted.headers["location"] == "/datasets?deleted=two%20words"
    assert "/datasets/two%20words/restore" in (await member.get(deleted.headers["location"])).text
    assert (await member.post("/datasets/two words/restore")).headers["location"] == "/datasets/two%20words"
    assert "tiny" in (await member.get("/models")).text
