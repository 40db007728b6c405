"""The live stream, over a real server."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from backend.core import events as core_events
from backend.core import queue, runs
from backend.core.events import EventKind
from backend.core.ids import uuid7
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


async def test_a_run_that_has_ended_is_told_to_its_end_though_postgres_goes_away_meanwhile(
    app: FastAPI, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_id,) = copies(session, 1, 3 * stream.PAGE)
    session.execute(text("UPDATE runs SET state = 'succeeded', ended_at = now()"))
    session.commit()
    hub: stream.Hub = app.state.studio.hub
    asked = count(1)
    history = hub.history

    async def away_now_and_then(*page: Any) -> list[tuple[int, bytes]]:
        if next(asked) in (1, 3, 4):
            raise OperationalError("", {}, Exception("the server closed the connection unexpectedly"))
        return await history(*page)

    monkeypatch.setattr(stream, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(hub, "history", away_now_and_then)
    viewer = replace(viewer_of([run_id]), is_single=True)
    told = b"".join([block async for block in stream.frames(hub, viewer)]).decode()
    events = read_events(iter(told.splitlines()), 3 * stream.PAGE + 1)
    assert [int(event.id) for event in events[:-1]] == list(range(1, 3 * stream.PAGE + 1))
    assert events[-1].name == "end"


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


@pytest.mark.parametrize(("bound", "most"), [("FEED_EVENTS", 5), ("FEED_BYTES", 1000), ("FEED_BYTES", 1)])
def test_a_feed_that_forgot_reads_from_postgres(
    served: str, session: Session, here: Settings, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(stream, bound, most)
    who, run = account(session, Role.VIEWER), queued_run(session)
    with opened(served, f"/api/v1/runs/{run.id}/events", who) as lines:
        read_events(lines, 1)
        for step in range(1, 40):
            tell(session, here, run, {"loss": 1.0}, step=step)
        with opened(served, f"/api/v1/runs/{run.id}/events", who) as late:
            assert [int(event.id) for event in read_events(late, 40)] == list(range(1, 41))
        assert [int(event.id) for event in read_events(lines, 39)] == list(range(2, 41))


# ---- many long runs -------------------------------------------------------------------------------------------------

RUNS, EVENTS = 120, 500


def copies(session: Session, count: int, events: int) -> list[UUID]:
    """Runs like the first one, each with so many events."""
    run = queued_run(session)
    made = [uuid7() for _ in range(count)]
    copy = text(
        "INSERT INTO runs SELECT (jsonb_populate_record(NULL::runs, to_jsonb(runs) || CAST(:own AS jsonb))).* FROM runs"
        " WHERE id = :run"
    )
    told = text(
        "INSERT INTO run_events (run_id, seq, kind, step, attempt, data)"
        " SELECT :run, seq, 'metrics', seq, 1, CAST(:data AS jsonb) FROM generate_series(1, :events) seq"
    )
    data = json.dumps({"t": 1e9, "values": {"loss": 1.0, "grad_norm": 0.5, "tokens_per_second": 1000.0}})
    for run_id in made:
        session.execute(
            copy, {"run": run.id, "own": json.dumps({"id": str(run_id), "name": str(run_id), "seq": events})}
        )
        session.execute(told, {"run": run_id, "data": data, "events": events})
    session.commit()
    return made


def viewer_of(run_ids: Iterable[UUID], *, wants_latest: bool = False) -> stream.Viewer:
    async def still_holds() -> bool:
        return True

    cursors = dict.fromkeys(run_ids, 0)
    return stream.Viewer(cursors, is_single=False, wants_latest=wants_latest, beyond=None, may_go_on=still_holds)


async def blocks_of(hub: stream.Hub, viewer: stream.Viewer) -> AsyncIterator[bytes]:
    """What one viewer is sent, until nothing is new."""
    async with hub.watching(viewer.cursors) as feeds:
        while block := await stream.next_block(hub, feeds, viewer):
            yield block


async def test_many_long_runs_come_whole_and_in_order_by_small_pieces(app: FastAPI, session: Session) -> None:
    """A piece is built at a stretch, for which everybody else waits."""
    run_ids = copies(session, RUNS, EVENTS)
    blocks = [block async for block in blocks_of(app.state.studio.hub, viewer_of(run_ids))]
    assert max(map(len, blocks)) < 1.2 * stream.BLOCK_BYTES
    assert sum(map(len, blocks)) < RUNS * EVENTS * 400  # the ids of all runs at each event would be ten times that
    told: dict[str, list[int]] = {str(run_id): [] for run_id in run_ids}
    for event in read_events(iter(b"".join(blocks).decode().splitlines()), RUNS * EVENTS):
        told[event.data["run"]].append(event.data["seq"])
    assert all(seqs == list(range(1, EVENTS + 1)) for seqs in told.values())


async def test_a_long_run_does_not_hold_back_the_others(app: FastAPI, session: Session) -> None:
    long, short = copies(session, 3, 2000), copies(session, 3, 2)
    blocks = [block async for block in blocks_of(app.state.studio.hub, viewer_of([*long, *short]))]
    assert len(blocks) > 4
    assert all(str(run_id).encode() in b"".join(blocks[:2]) for run_id in short)


async def test_a_stream_of_several_runs_goes_on_behind_the_last_piece_that_came_whole(
    app: FastAPI, session: Session
) -> None:
    run_ids = copies(session, 4, EVENTS)
    told = [block async for block in blocks_of(app.state.studio.hub, viewer_of(run_ids))]
    first = read_events(iter(told[0].decode().splitlines()), EVENTS * 4)
    (last_id,) = filter(None, (event.id for event in first))
    assert last_id == first[-1].id
    again = viewer_of(run_ids)
    again.cursors = stream.cursor_of(last_id, run_ids)
    rest = b"".join([block async for block in blocks_of(app.state.studio.hub, again)])
    events = [*first, *read_events(iter(rest.decode().splitlines()), EVENTS * 4)]
    numbers = [(event.data["run"], event.data["seq"]) for event in events]
    assert len(set(numbers)) == len(numbers) == EVENTS * 4


async def test_the_states_of_many_runs_come_in_small_pieces_too(app: FastAPI, session: Session) -> None:
    viewer = viewer_of(copies(session, RUNS, 1), wants_latest=True)
    blocks = [block async for block in blocks_of(app.state.studio.hub, viewer)]
    assert sum(block.count(b"data: ") for block in blocks) == RUNS
    assert sum(map(len, blocks)) < RUNS * 3000


async def test_long_answers_are_read_by_pieces(app: FastAPI, session: Session) -> None:
    (run_id,) = copies(session, 1, 100)
    session.execute(text("UPDATE run_events SET data = jsonb_build_object('text', repeat('a', 20000))"))
    session.commit()
    page = await app.state.studio.hub.history(run_id, 0, stream.BLOCK_BYTES)
    assert sum(len(data) for _, data in page) < 1.2 * stream.BLOCK_BYTES
