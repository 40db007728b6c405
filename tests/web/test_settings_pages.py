"""The settings: what each role sees and may do, through the pages and through the API."""

from __future__ import annotations

import asyncio
import csv
import io
import logging
import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from backend.core import db, disk, people, runs
from backend.core.models import ApiToken, Attempt, Audit, Device, Invitation, Role, SignIn, User, Worker
from backend.core.settings import Settings
from backend.web.administration import browser_of
from tests.web.conftest import ADDRESS, account, client_of, queued_run

WORDS = "four quiet words"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0"


def link_in(page: str) -> str:
    found = re.search(r"/invitation\?token=[\w-]+", page)
    assert found
    return found[0]


def a_worker(session: Session, name: str = "gpu-box") -> None:
    session.add(Worker(name=name, place="here", facts={"cores": 8, "memory_bytes": 1 << 34}))
    session.flush()
    session.add(Device(worker=name, name="cuda:0", title="NVIDIA L40S", memory_bytes=48 << 30))
    session.commit()


def audited(session: Session, action: str) -> list[str]:
    return list(session.scalars(select(Audit.subject).where(Audit.action == action)))


async def until_audited(session: Session, action: str) -> None:
    """Some of it is written beside the answer."""
    for _ in range(500):
        if audited(session, action):
            return
        session.rollback()
        await asyncio.sleep(0.02)


# ---- who may what ---------------------------------------------------------------------------------------------------

EVERYBODY = ("you", "sessions", "tokens", "workers", "storage")
ADMINISTRATORS = ("people", "audit")
FOR_ADMINISTRATORS: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/api/v1/people", None),
    ("GET", "/api/v1/audit", None),
    ("GET", "/api/v1/audit/download", None),
    ("POST", "/api/v1/storage/clean-up", None),
    ("PATCH", "/api/v1/workers/gpu-box", {"drained": True}),
    ("POST", "/api/v1/people/the viewer/invitation", None),
    ("DELETE", "/api/v1/people/the viewer/sessions", None),
)


async def test_sections_are_shown_to_whom_they_are_for(
    viewer: httpx.AsyncClient, member: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    for client, open_ones in ((viewer, EVERYBODY), (member, EVERYBODY), (admin, EVERYBODY + ADMINISTRATORS)):
        listed = set(re.findall(r'href="/settings/(\w+)"', (await client.get("/settings")).text))
        assert listed == set(open_ones)
        for section in EVERYBODY + ADMINISTRATORS:
            status = (await client.get(f"/settings/{section}")).status_code
            assert status == (200 if section in open_ones else 403), section


async def test_what_is_for_administrators_is_refused_to_everybody_else(
    viewer: httpx.AsyncClient, member: httpx.AsyncClient, admin: httpx.AsyncClient, session: Session
) -> None:
    a_worker(session)
    for method, path, body in FOR_ADMINISTRATORS:
        for client in (viewer, member):
            assert (await client.request(method, path, json=body)).status_code == 403, path
        assert (await client_of_role(admin, method, path, body)).is_success, path


async def client_of_role(client: httpx.AsyncClient, method: str, path: str, body: Any) -> httpx.Response:
    return await client.request(method, path, json=body)


async def test_forms_for_administrators_are_refused_to_members(member: httpx.AsyncClient) -> None:
    for path in ("/settings/people", "/settings/people/bob", "/settings/workers/gpu-box", "/settings/storage/clean-up"):
        assert (await member.post(path, data={"act": "drain"})).status_code == 403, path


async def test_the_old_address_of_people_leads_to_the_new_one(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/people")).headers["location"] == "/settings/people"


# ---- invitations ----------------------------------------------------------------------------------------------------


async def test_somebody_is_invited_and_sets_a_password_by_the_link_once(
    app: FastAPI, admin: httpx.AsyncClient, session: Session
) -> None:
    page = (await admin.post("/settings/people", data={"name": "bob", "role": "viewer"})).text
    link = link_in(page)
    assert link not in (await admin.get("/settings/people")).text
    assert "invited; the link ends" in (await admin.get("/settings/people")).text
    async with client_of(app, {"origin": ADDRESS}) as bob:
        assert "Welcome, bob" in (await bob.get(link)).text
        form = {"token": link.partition("=")[2], "password": WORDS, "again": WORDS}
        assert "differ" in (await bob.post("/invitation", data=form | {"again": "other"})).text
        assert "at least 8" in (await bob.post("/invitation", data=form | {"password": "x", "again": "x"})).text
        done = await bob.post("/invitation", data=form)
        assert (done.status_code, done.headers["location"]) == (303, "/")
        assert "bob" in (await bob.get("/settings")).text
        bob.cookies.clear()
        for again in (await bob.get(link), await bob.post("/invitation", data=form)):
            assert (again.status_code, "used already" in again.text) == (403, True)
    assert audited(session, "person.invite") == audited(session, "person.accept") == ["bob"]


async def test_a_link_ends_with_its_week_with_a_newer_one_and_with_a_suspension(
    app: FastAPI, admin: httpx.AsyncClient, session: Session
) -> None:
    made = (await admin.post("/api/v1/people", json={"name": "bob", "role": "viewer"})).json()
    first = made["invitation"]["link"]
    second = (await admin.post("/api/v1/people/bob/invitation")).json()["link"]
    async with client_of(app) as bob:
        assert [(await bob.get(link)).status_code for link in (first, second)] == [403, 200]
        await admin.patch("/api/v1/people/bob", json={"disabled": True})
        assert (await bob.get(second)).status_code == 403
        await admin.patch("/api/v1/people/bob", json={"disabled": False})
        session.execute(update(Invitation).values(expires_at=datetime.now(UTC) - timedelta(minutes=1)))
        session.commit()
        assert (await bob.get(second)).status_code == 403


async def test_guessing_at_links_is_slowed_down(app: FastAPI) -> None:
    async with client_of(app, {"origin": ADDRESS}) as guesser:
        form = {"token": "x", "password": WORDS, "again": WORDS}
        statuses = [(await guesser.post("/invitation", data=form)).status_code for _ in range(31)]
    assert (set(statuses[:30]), statuses[30]) == ({403}, 429)


async def test_a_password_given_at_once_needs_no_link(admin: httpx.AsyncClient) -> None:
    made = await admin.post("/api/v1/people", json={"name": "bob", "password": WORDS})
    assert made.json()["invitation"] is None


async def test_who_was_invited_does_not_count_as_an_administrator_before_they_came(
    admin: httpx.AsyncClient,
) -> None:
    await admin.post("/api/v1/people", json={"name": "bob", "role": "admin"})
    refused = await admin.patch("/api/v1/people/the admin", json={"role": "viewer"})
    assert (refused.status_code, "last administrator" in refused.text) == (409, True)


# ---- people ---------------------------------------------------------------------------------------------------------


async def test_people_are_told_with_their_runs_hours_and_last_request(
    admin: httpx.AsyncClient, session: Session, app: FastAPI
) -> None:
    bob = account(session, Role.MEMBER, "bob")
    queued_run(session, "bobs", bob)
    runs.claim(session, worker="box", device="cpu", place="here", lease_seconds=60, limits=runs.Limits())
    session.execute(update(Attempt).values(started_at=datetime.now(UTC) - timedelta(hours=2)))
    session.commit()
    async with client_of(app, bob.headers) as client:
        await client.get("/")
    found = {each["name"]: each for each in (await admin.get("/api/v1/people")).json()}
    assert (found["bob"]["runs"], found["bob"]["sessions"], found["bob"]["is_last_admin"]) == (1, 1, False)
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    begun = max(month, datetime.now(UTC) - timedelta(hours=2))
    assert found["bob"]["device_hours"] == pytest.approx((datetime.now(UTC) - begun).total_seconds() / 3600, abs=0.02)
    seen = datetime.fromisoformat(found["bob"]["seen_at"])
    assert datetime.now(UTC) - seen < timedelta(minutes=1)
    assert found["the admin"]["is_last_admin"]
    assert [each["name"] for each in (await admin.get("/api/v1/people?limit=1&offset=1")).json()] == ["the admin"]


async def test_a_suspended_person_is_out_at_once_and_can_be_let_in_again(
    app: FastAPI, admin: httpx.AsyncClient, session: Session
) -> None:
    bob = account(session, Role.MEMBER, "bob")
    async with client_of(app, bob.headers) as client:
        assert (await client.get("/runs")).status_code == 200
        assert (await admin.post("/settings/people/bob", data={"act": "disable"})).status_code == 303
        assert (await client.get("/api/v1/me")).status_code == 401
    assert "suspended" in (await admin.get("/settings/people")).text
    await admin.post("/settings/people/bob", data={"act": "enable"})
    assert people.find(session, "bob").disabled_at is None


async def test_the_last_administrator_is_told_why_nothing_can_be_taken_from_them(admin: httpx.AsyncClient) -> None:
    page = (await admin.get("/settings/people")).text
    assert "Nobody else could let people in" in page
    refused = await admin.post("/settings/people/the admin", data={"role": "viewer"})
    assert (refused.status_code, "last administrator" in refused.text) == (409, True)


# ---- browsers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "told"),
    [
        (FIREFOX, ("Firefox 142", "Linux")),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/139.0.0.0 Safari/537.36 Edg/139.0.0.0",
            ("Edge 139", "Windows"),
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605 Version/18.5 Mobile/15E148 Safari/604",
            ("Safari 18", "iOS"),
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/138.0.0.0 Mobile Safari/537.36",
            ("Chrome 138", "Android"),
        ),
        ("python-httpx/0.28.1", ("python-httpx 0.28.1", "")),
        ("", ("", "")),
    ],
)
def test_a_browser_is_told_in_plain_words(agent: str, told: tuple[str, str]) -> None:
    assert browser_of(agent) == told


async def test_ones_own_browsers_are_listed_and_ended(app: FastAPI, session: Session) -> None:
    ada, bob = account(session, Role.VIEWER, "ada"), account(session, Role.VIEWER, "bob")
    elsewhere = [people.sign_in(session, people.find(session, "ada"), FIREFOX, hours=1) for _ in range(2)]
    session.commit()
    async with client_of(app, ada.headers) as client:
        listed = (await client.get("/api/v1/me/sessions")).json()
        assert sorted((each["browser"], each["is_this"]) for each in listed) == [
            ("Firefox 142", False),
            ("Firefox 142", False),
            ("test", True),
        ]
        page = (await client.get("/settings/sessions")).text
        assert page.count("Firefox 142 on Linux") == 2
        other = next(each["id"] for each in listed if not each["is_this"])
        assert (await client.post(f"/settings/sessions/{other}/end")).status_code == 303
        assert (await client.delete(f"/api/v1/me/sessions/{other}")).status_code == 404
        bobs = people.session_name(people.sessions_of(session, bob.identity.id)[0])
        assert (await client.delete(f"/api/v1/me/sessions/{bobs}")).status_code == 404
        assert (await client.delete("/api/v1/me/sessions")).status_code == 204
        assert len((await client.get("/api/v1/me/sessions")).json()) == 1
    for secret in elsewhere:
        assert people.find_session(session, secret) is None
    assert people.find_session(session, bob.cookie)


async def test_an_administrator_signs_somebody_out_everywhere(
    app: FastAPI, admin: httpx.AsyncClient, session: Session
) -> None:
    bob = account(session, Role.MEMBER, "bob")
    assert (await admin.post("/settings/people/bob", data={"act": "end_sessions"})).status_code == 303
    async with client_of(app, bob.headers) as client:
        assert (await client.get("/api/v1/me")).status_code == 401
    assert audited(session, "session.end_all") == ["bob"]


async def test_a_new_password_ends_other_browsers_and_tokens_where_that_is_wanted(
    app: FastAPI, session: Session
) -> None:
    user = people.create(session, "ada", people.hash_password(WORDS), Role.MEMBER, by=None)
    cookies = [people.sign_in(session, user, "test", hours=1) for _ in range(2)]
    token = people.create_token(session, user, "ci", role=Role.MEMBER, days=1, by=user.id)
    session.commit()
    identity = people.find_session(session, cookies[0])
    assert identity
    headers = {"cookie": f"studio={cookies[0]}", "x-csrf-token": identity.csrf_token, "origin": ADDRESS}
    async with client_of(app, headers) as client:
        form = {"old": WORDS, "new": "five other quiet words", "again": "five other quiet words"}
        assert "Revoke my API token too" in (await client.get("/settings/you")).text
        assert "differ" in (await client.post("/settings/password", data=form | {"again": "x"})).text
        kept = await client.post("/settings/password", data=form)
        assert kept.headers["location"] == "/settings/you?done=password"
        assert people.find_session(session, cookies[1]) is None
        assert people.find_bearer(session, token.secret)
        session.commit()
        again = {"old": form["new"], "new": WORDS, "again": WORDS, "revoke": "on"}
        await client.post("/settings/password", data=again)
        assert people.find_bearer(session, token.secret) is None
    assert audited(session, "token.revoke_all") == ["ada"]


# ---- tokens ---------------------------------------------------------------------------------------------------------


async def test_a_token_may_be_given_no_more_than_ones_own_role(
    viewer: httpx.AsyncClient, member: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    for client, roles in ((viewer, 1), (member, 2), (admin, 3)):
        page = (await client.get("/settings/tokens")).text
        assert len(re.findall(r'<option value="(viewer|member|admin)"', page)) == roles
    assert (await member.post("/api/v1/tokens", json={"name": "ci", "role": "admin"})).status_code == 403


async def test_tokens_are_ones_own_and_an_administrators_are_everybodys(
    member: httpx.AsyncClient, viewer: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    for number in range(3):
        made = (await member.post("/api/v1/tokens", json={"name": f"ci {number}", "role": "viewer"})).json()
    assert (await viewer.get("/api/v1/tokens")).json() == []
    assert (await viewer.delete(f"/api/v1/tokens/{made['id']}")).status_code == 404
    listed = (await admin.get("/api/v1/tokens?limit=2&offset=1")).json()
    assert [each["name"] for each in listed] == ["ci 1", "ci 0"]
    assert (await admin.post(f"/settings/tokens/{made['id']}/revoke")).status_code == 303
    assert (await member.get("/api/v1/tokens")).json()[0]["revoked_at"]


# ---- workers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"disk_full": True}, "Its disk is full"),
        ({"silent": ["cuda:0"]}, "Its driver does not answer"),
        ({"strangers": {"cuda:0": [{"name": "vllm", "pid": 4711}]}}, "vllm, process 4711"),
    ],
)
async def test_a_free_device_that_starts_no_run_says_why(
    admin: httpx.AsyncClient, session: Session, facts: dict[str, Any], words: str
) -> None:
    a_worker(session)
    pages = ("/settings/workers", "/")
    assert [words in (await admin.get(page)).text for page in pages] == [False, False]
    session.get_one(Worker, "gpu-box").facts = facts
    session.commit()
    assert [words in (await admin.get(page)).text for page in pages] == [True, True]


async def test_a_drained_worker_takes_no_run_until_it_is_let_go(admin: httpx.AsyncClient, session: Session) -> None:
    a_worker(session)
    queued_run(session)

    def claim(worker: str) -> runs.Token | None:
        session.rollback()
        return runs.claim(session, worker=worker, device="cuda:0", place="here", lease_seconds=60, limits=runs.Limits())

    assert (await admin.post("/settings/workers/gpu-box", data={"act": "drain"})).status_code == 303
    assert "Drained" in (await admin.get("/settings/workers")).text
    assert claim("gpu-box") is None
    assert claim("another") is not None
    session.rollback()
    await admin.post("/settings/workers/gpu-box", data={"act": "release"})
    assert claim("gpu-box") is not None
    session.commit()
    told = (await admin.get("/api/v1/workers")).json()
    assert told[0]["devices"][0]["run"] == "first"
    assert 'href="/runs/first"' in (await admin.get("/settings/workers")).text
    assert audited(session, "worker.drain") == audited(session, "worker.release") == ["gpu-box"]
    assert (await admin.patch("/api/v1/workers/none", json={"drained": True})).status_code == 404


# ---- storage --------------------------------------------------------------------------------------------------------


async def measured(client: httpx.AsyncClient) -> dict[str, Any]:
    """The disk once it is measured, which takes no request's time."""
    for _ in range(200):
        told: dict[str, Any] = (await client.get("/api/v1/storage")).json()
        if told["waste"] is not None and not told["is_measuring"]:
            return told
        await asyncio.sleep(0.02)
    raise AssertionError(told)


async def test_the_disk_is_measured_in_the_background_and_cleaned_up_on_a_word(
    admin: httpx.AsyncClient, viewer: httpx.AsyncClient, here: Settings, session: Session
) -> None:
    given_up = here.folder("uploads") / "a.part"
    given_up.write_bytes(os.urandom(8192))
    os.utime(given_up, (1e9, 1e9))
    first = (await viewer.get("/api/v1/storage")).json()
    assert (first["at"], first["is_measuring"]) == (None, True)
    told = await measured(viewer)
    assert told["kinds"]["uploads"] == told["waste"]["upload_bytes"] == 8192
    assert "clean-up" not in (await viewer.get("/settings/storage")).text
    assert "Free 8.0 KiB?" in (await admin.get("/settings/storage")).text
    freed = await admin.post("/settings/storage/clean-up")
    assert "8.0 KiB freed" in freed.text
    assert not given_up.exists()
    assert (await measured(viewer))["waste"]["total_bytes"] == 0
    entry = session.scalars(select(Audit).where(Audit.action == "storage.clean_up")).one()
    assert entry.data["total_bytes"] == 8192


class Killer(logging.Handler):
    """Ends, in the midst of the second deletion, the connection that it goes by."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.deletions = url, 0

    def emit(self, _record: logging.LogRecord) -> None:
        self.deletions += 1
        if self.deletions != 2:
            return
        killed = (
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = current_database()"
        )
        with db.engine_once(self.url) as engine, engine.connect() as connection:
            assert connection.scalar(text(f"{killed} AND state = 'idle in transaction'")) == 1


async def test_what_was_deleted_before_a_clean_up_broke_off_is_marked_and_audited(
    admin: httpx.AsyncClient, here: Settings, session: Session
) -> None:
    both = [queued_run(session, name) for name in ("first", "second")]
    for run in both:
        run.discarded_at = datetime.now(UTC) - timedelta(days=365)
        (here.root / "runs" / str(run.id)).mkdir(parents=True)
        (here.root / "runs" / str(run.id) / "events.jsonl").write_bytes(os.urandom(8192))
    session.commit()
    log, killer = logging.getLogger(disk.__name__), Killer(here.database_url)
    log.setLevel(logging.INFO)
    log.addHandler(killer)
    broken_off = await admin.post("/api/v1/storage/clean-up")
    log.removeHandler(killer)
    log.setLevel(logging.NOTSET)
    assert broken_off.status_code == 503
    session.expire_all()
    assert sorted(bool(run.facts.get("purged")) for run in both) == [False, True]
    (entry,) = session.scalars(select(Audit).where(Audit.action == "storage.clean_up"))
    assert (entry.data["runs"], entry.data["run_bytes"]) == (1, 8192)
    session.rollback()
    assert (await admin.post("/api/v1/storage/clean-up")).status_code == 200
    assert all(run.facts["purged"] for run in both)


# ---- the audit ------------------------------------------------------------------------------------------------------


async def test_the_audit_is_narrowed_and_paged(admin: httpx.AsyncClient, session: Session) -> None:
    bob = people.create(session, "bob", "x", Role.MEMBER, by=None)
    for number in range(7):
        people.audit(session, bob.id, "recipe.delete", f"recipe {number}")
        session.commit()
        await asyncio.sleep(0.002)  # ids of one millisecond have no order
    first = (await admin.get("/api/v1/audit", params={"person": "BOB", "action": "recipe", "limit": 5})).json()
    assert [each["subject"] for each in first["items"]] == [f"recipe {number}" for number in (6, 5, 4, 3, 2)]
    rest = await admin.get(
        "/api/v1/audit", params={"person": "bob", "action": "recipe", "limit": 5, "before": first["next"]}
    )
    assert ([each["subject"] for each in rest.json()["items"]], rest.json()["next"]) == (["recipe 1", "recipe 0"], None)
    page = (await admin.get("/settings/audit", params={"action": "recipe.delete"})).text
    assert (page.count('data-action="recipe.delete"'), "deleted a recipe" in page) == (7, True)
    chinese = await admin.get("/settings/audit?action=recipe.delete", headers={"accept-language": "zh"})
    assert "删除了配方" in chinese.text


async def test_the_whole_audit_is_downloaded_as_a_table_or_as_lines(admin: httpx.AsyncClient, session: Session) -> None:
    people.audit(session, None, "recipe.delete", '=1+1,"two"\nlines')
    session.commit()
    table = await admin.get("/api/v1/audit/download", params={"action": "recipe.delete"})
    assert table.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    [row] = csv.DictReader(io.StringIO(table.text))
    at = datetime.fromisoformat(row.pop("at"))
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=5)
    subject = '\'=1+1,"two"\nlines'  # no spreadsheet computes it
    assert row == {"person": "", "address": "", "action": "recipe.delete", "subject": subject, "data": ""}
    lines = (await admin.get("/api/v1/audit/download?format=jsonl")).text.splitlines()
    assert len(lines) > 2


async def test_what_destroys_or_grants_is_written_down(
    app: FastAPI, admin: httpx.AsyncClient, session: Session
) -> None:
    run = queued_run(session)
    await admin.post(f"/runs/{run.name}/act", data={"act": "discard"})
    await admin.post(f"/api/v1/runs/{run.name}/restore")
    people.create(session, "bob", people.hash_password(WORDS), Role.MEMBER, by=None)
    session.commit()
    async with client_of(app, {"origin": ADDRESS}) as stranger:
        for name in ("bob", "nobody"):
            await stranger.post("/signin", data={"name": name, "password": "not that"})
    await admin.patch("/api/v1/people/bob", json={"role": "viewer"})
    assert audited(session, "run.discard") == audited(session, "run.restore") == ["first"]
    await until_audited(session, "sign_in.failed")
    assert audited(session, "sign_in.failed") == ["bob"]  # names that nobody has are not kept
    assert audited(session, "person.role") == ["bob"]


async def test_a_request_is_written_down_once_a_minute(app: FastAPI, session: Session) -> None:
    ada = account(session, Role.VIEWER, "ada")
    async with client_of(app, ada.headers) as client:
        await client.get("/api/v1/me")
        first = session.scalar(select(User.seen_at).where(User.id == ada.identity.id))
        await client.get("/api/v1/me")
        session.rollback()
        assert first is not None
        assert session.scalar(select(SignIn.seen_at).where(SignIn.user_id == ada.identity.id)) is not None
        assert session.scalar(select(User.seen_at).where(User.id == ada.identity.id)) == first
    assert session.scalars(select(ApiToken)).all() == []


async def test_tokens_are_listed_a_hundred_at_a_time(member: httpx.AsyncClient, session: Session) -> None:
    ada = people.find(session, "the member")
    for number in range(103):
        people.create_token(session, ada, f"no {number}", role=Role.MEMBER, days=None, by=None)
    session.commit()
    first = (await member.get("/settings/tokens")).text
    behind = (await member.get("/settings/tokens?offset=100")).text
    assert "<b>no 102</b>" in first
    assert "<b>no 2</b>" not in first
    assert 'href="/settings/tokens?offset=100"' in first
    assert [f"<b>no {number}</b>" in behind for number in (3, 2, 0)] == [False, True, True]
    assert 'href="/settings/tokens?offset=' not in behind
