"""The live stream, over a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from backend.core import events as core_events
from backend.core import queue, runs
from backend.core.events import EventKind
from backend.core.models import Role, Run
from backend.core.settings import Settings
from backend.web import stream
from backend.web.api.events import MOST_RUNS
from tests.web.conftest import Account, account, queued_run


@dataclass(frozen=True)
class Event:
    name: str
    id: str
    data: Any


def read_events(lines: Iterator[str], count: int) -> list[Event]:
    """The next `count` events, beats left out."""
    found: list[Event] = []
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        elif "data" in fields:
            event = Event(fields.get("event", "message"), fields.get("id", ""), json.loads(fields["data"]))
            found += [event] if event.name != "beat" else []
            fields = {}
            if len(found) == count:
                break
    return found


@contextmanager
def opened(served: str, path: str, who: Account, **headers: str) -> Iterator[Iterator[str]]:
    with (
        httpx.Client(base_url=served, timeout=10, headers={"cookie": f"studio={who.cookie}", **headers}) as client,
        client.stream("GET", path) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        yield answer.iter_lines()


def tell(session: Session, here: Settings, run: Run, values: dict[str, float], step: int) -> None:
    """One event, as a supervisor ships it."""
    locked = runs.lock(session, run.id)
    core_events.emit(session, locked, EventKind.METRICS, {"values": values}, step=step)
    session.commit()
    queue.ring(here.redis_url, core_events.take_rings(session))


def test_a_viewer_sees_what_was_and_what_comes(served: str, session: Session, here: Settings) -> None:
    who, run = account(session, Role.VIEWER), queued_run(session)
    with opened(served, f"/api/v1/runs/{run.id}/events", who) as lines:
        (first,) = read_events(lines, 1)
        assert (first.id, first.data["kind"], first.data["data"]["state"]) == ("1", "state", "queued")
        began = time.monotonic()
        tell(session, here, run, {"loss": 6.0}, step=1)
        (second,) = read_events(lines, 1)
        assert time.monotonic() - began < 0.5  # the doorbell rang; without it the look comes once a second
        assert (second.id, second.data["step"], second.data["data"]["values"]) == ("2", 1, {"loss": 6.0})


def test_a_stream_goes_on_behind_the_last_event_that_was_seen(served: str, session: Session) -> None:
    who, run = account(session, Role.VIEWER), queued_run(session)
    for step in range(1, 1201):
        core_events.emit(session, run, EventKind.METRICS, {"values": {"loss": 1 / step}}, step=step)
    session.commit()
    for headers, query in (({"last-event-id": "700"}, "?after=3"), ({}, "?after=700")):
        with opened(served, f"/api/v1/runs/{run.name}/events{query}", who, **headers) as lines:
            assert [int(event.id) for event in read_events(lines, 501)] == list(range(701, 1202))


async def test_the_stream_of_a_run_that_is_deleted_before_it_began_ends_without_an_end_of_the_run(app: FastAPI) -> None:
    """Whoever comes again is told that there is no such run."""

    async def still_holds() -> bool:
        return True

    cursors = {uuid4(): 0}
    viewer = stream.Viewer(cursors, is_single=True, wants_latest=False, beyond=None, may_go_on=still_holds)
    assert [frame async for frame in stream.frames(app.state.studio.hub, viewer)] == [stream.OPENING]


def test_a_nonsense_cursor_replays_from_the_start(served: str, session: Session) -> None:
    who, run = account(session, Role.VIEWER), queued_run(session)
    for cursor in ("abc", "-1", "9" * 40, "1:2:3,,"):
        with opened(served, f"/api/v1/runs/{run.id}/events", who, **{"last-event-id": cursor}) as lines:
            assert read_events(lines, 1)[0].id == "1"


def test_news_arrive_while_redis_is_silent(served: str, session: Session) -> None:
    who, run = account(session, Role.VIEWER), queued_run(session)
    with opened(served, f"/api/v1/runs/{run.id}/events?after=1", who) as lines:
        core_events.emit(session, run, EventKind.LOG, {"level": "info", "text": "nobody rang"})
        session.commit()
        assert read_events(lines, 1)[0].data["data"]["text"] == "nobody rang"


def test_a_ring_that_nobody_understands_is_told_and_ends_no_stream(
    served: str, session: Session, here: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BEAT_SECONDS", 0.3)
    who, run = account(session, Role.VIEWER), queued_run(session)
    with opened(served, f"/api/v1/runs/{run.id}/events?after=1", who) as lines:
        queue.client(here.redis_url).publish(queue.CHANNEL, b"\xff")
        tell(session, here, run, {"loss": 6.0}, step=1)
        assert read_events(lines, 1)[0].data["data"]["values"] == {"loss": 6.0}
        assert next(line for line in lines if line.startswith("event")) == "event: beat"
    assert caplog.text.count("UnicodeDecodeError") == 1


def test_a_run_that_has_ended_closes_its_stream(served: str, session: Session) -> None:
    who, run = account(session, Role.VIEWER), queued_run(session)
    runs.stop(session, run.id, keep=False)
    session.commit()
    with opened(served, f"/api/v1/runs/{run.id}/events", who) as lines:
        found = read_events(lines, 10)
    assert [event.name for event in found] == ["message", "message", "end"]
    assert found[-1].data["state"] == "stopped"


def test_several_runs_share_one_connection(served: str, session: Session, here: Settings) -> None:
    who = account(session, Role.VIEWER)
    first, second = queued_run(session, "first"), queued_run(session, "second")
    with opened(served, f"/api/v1/events?run=first&run={second.id}", who) as lines:
        assert {event.data["run"] for event in read_events(lines, 2)} == {str(first.id), str(second.id)}
        tell(session, here, second, {"loss": 2.0}, step=1)
        (event,) = read_events(lines, 1)
    assert event.id == f"{first.id}:1,{second.id}:2"
    with opened(served, "/api/v1/events?run=first&run=second", who, **{"last-event-id": event.id}) as lines:
        tell(session, here, first, {"loss": 3.0}, step=1)
        assert read_events(lines, 1)[0].id == f"{first.id}:2,{second.id}:2"


def test_a_list_page_gets_the_newest_state_alone(served: str, session: Session) -> None:
    who, run = account(session, Role.VIEWER), queued_run(session)
    for step in range(1, 50):
        core_events.emit(session, run, EventKind.METRICS, {"values": {"loss": 1.0}}, step=step)
    session.commit()
    with opened(served, f"/api/v1/events?run={run.id}&latest=true", who) as lines:
        (now,) = read_events(lines, 1)
        assert (now.data["name"], now.data["state"], now.data["seq"]) == ("first", "queued", 50)
        runs.pause(session, run.id)
        session.commit()
        assert read_events(lines, 1)[0].data["state"] == "paused"


def test_whoever_may_not_look_is_refused_before_the_stream_begins(served: str, session: Session) -> None:
    run = queued_run(session)
    assert httpx.get(f"{served}/api/v1/runs/{run.id}/events").status_code == 401
    who = account(session, Role.VIEWER)
    answer = httpx.get(f"{served}/api/v1/runs/none/events", headers={"cookie": f"studio={who.cookie}"})
    assert answer.status_code == 404
    for query in ("", f"run={'a' * 101}", "&".join(["run=a"] * (MOST_RUNS + 1))):
        answer = httpx.get(f"{served}/api/v1/events?{query}", headers={"cookie": f"studio={who.cookie}"})
        assert answer.status_code == 422, query[:20]


def test_a_sign_out_ends_the_stream(served: str, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BEAT_SECONDS", 0.3)
    who, run = account(session, Role.VIEWER), queued_run(session)
    with opened(served, f"/api/v1/runs/{run.id}/events", who) as lines:
        read_events(lines, 1)
        httpx.post(f"{served}/signout", headers=who.headers | {"origin": served})
        assert read_events(lines, 1) == []


def test_an_idle_stream_beats(served: str, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BEAT_SECONDS", 0.1)
    who, run = account(session, Role.VIEWER), queued_run(session)
    with opened(served, f"/api/v1/runs/{run.id}/events?after=1", who) as lines:
        assert next(line for line in lines if line.startswith("event")) == "event: beat"
        assert next(lines).startswith("data:")  # a comment would not reach scripts


def test_a_feed_that_forgot_reads_from_postgres(
    served: str, session: Session, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FEED_EVENTS", 5)
    who, run = account(session, Role.VIEWER), queued_run(session)
    with opened(served, f"/api/v1/runs/{run.id}/events", who) as lines:
        read_events(lines, 1)
        for step in range(1, 40):
            tell(session, here, run, {"loss": 1.0}, step=step)
        with opened(served, f"/api/v1/runs/{run.id}/events", who) as late:
            assert [int(event.id) for event in read_events(late, 40)] == list(range(1, 41))
        assert [int(event.id) for event in read_events(lines, 39)] == list(range(2, 41))
