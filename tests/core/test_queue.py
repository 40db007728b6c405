"""Hints and doorbells: what leaves after a commit, what happens while Redis is away, and what a worker accepts."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
import redis
from kombu.exceptions import ContentDisallowed
from kombu.message import Message
from sqlalchemy import select, update

from backend.core import queue
from backend.core.models import Outbox, Run
from backend.embedded.valkey import start_valkey
from tests.core.conftest import Sessions
from tests.support.homes import short_home

NOWHERE = "unix:///tmp/no-such-valkey.sock"


class Canary:
    """What a hostile message would have run."""

    touched = False

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return touch, ()


def touch() -> None:
    Canary.touched = True


def waiting(sessions: Sessions) -> int:
    with sessions.begin() as session:
        return len(session.execute(select(Outbox).where(Outbox.sent_at.is_(None))).all())


def test_a_hint_is_json_and_carries_an_id_and_nothing_else(
    sessions: Sessions, new_run: Callable[[], Run], valkey_url: str
) -> None:
    run = new_run()
    assert queue.publish(sessions, valkey_url) == 1
    assert waiting(sessions) == 0
    (raw,) = redis.Redis.from_url(valkey_url).lrange("studio", 0, -1)  # type: ignore[misc, unused-ignore]
    message = json.loads(raw)
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == queue.POKE
    assert str(run.id) in message["headers"]["argsrepr"]


def test_hints_wait_while_redis_is_away_and_leave_later(
    sessions: Sessions, new_run: Callable[[], Run], valkey_url: str
) -> None:
    new_run()
    assert queue.publish(sessions, NOWHERE) == 0
    assert waiting(sessions) == 1
    assert queue.publish(sessions, valkey_url) == 1


def test_hints_that_were_sent_long_ago_are_forgotten(
    sessions: Sessions, new_run: Callable[[], Run], valkey_url: str
) -> None:
    new_run()
    queue.publish(sessions, valkey_url)
    with sessions.begin() as session:
        session.execute(update(Outbox).values(sent_at=Outbox.sent_at - timedelta(days=2)))
    queue.publish(sessions, valkey_url)
    with sessions.begin() as session:
        assert session.execute(select(Outbox)).all() == []


def test_a_worker_refuses_every_message_that_is_not_json(valkey_url: str) -> None:
    app = queue.celery_app(valkey_url)
    assert list(app.conf.accept_content) == ["json"]
    assert app.conf.result_backend is None
    with app.connection_for_write() as connection:
        producer, box = connection.Producer(), app.amqp.queues["studio"]
        kinds = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
        where = {"exchange": box.exchange, "routing_key": box.routing_key, "declare": [box]}
        producer.publish(pickle.dumps(Canary()), **where, **kinds)
        received: list[object] = []
        take = app.amqp.TaskConsumer(connection.default_channel, callbacks=[lambda body, _: received.append(body)])
        with take, pytest.raises(ContentDisallowed):
            connection.drain_events(timeout=5)
    assert received == []
    assert not Canary.touched


async def test_a_doorbell_is_heard(valkey_url: str) -> None:
    run_id = UUID(int=7)
    heard = queue.doorbells(valkey_url)
    assert await anext(heard) is None  # subscribed, and a second of silence
    await asyncio.to_thread(queue.ring, valkey_url, [run_id])
    assert await anext(heard) == str(run_id)
    await heard.aclose()


async def test_without_redis_a_follower_is_told_to_look_by_itself() -> None:
    heard = queue.doorbells(NOWHERE)
    assert await anext(heard) is None
    queue.ring(NOWHERE, [UUID(int=7)])
    await heard.aclose()


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("redis://:pw@host:6379/0", "redis://:pw@host:6379/0"),
        ("unix:///run/v.sock?db=0", "redis+socket:///run/v.sock?virtual_host=0"),
        ("unix://:p%2Fw@/run/v%20x.sock?db=0", "redis+socket://:p%2Fw@/run/v x.sock?virtual_host=0"),
    ],
)
def test_one_redis_url_is_translated_for_kombu(given: str, spelled: str) -> None:
    assert queue.broker_url(given) == spelled


def test_a_worker_takes_further_hints_after_redis_went_away_before_one_was_acknowledged() -> None:
    taken: list[Message] = []
    with short_home() as home:
        valkey = start_valkey(home)
        app = queue.celery_app(valkey.url)
        app.send_task(queue.POKE, args=["a run"], retry=False)
        with app.connection() as connection:
            consumer = app.amqp.TaskConsumer(connection, callbacks=[lambda _body, message: taken.append(message)])
            consumer.qos(prefetch_count=app.conf.worker_prefetch_multiplier)  # as Celery's own worker asks for
            consumer.consume()
            connection.drain_events(timeout=10)
            valkey.stop()
            [message] = taken
            with pytest.raises(redis.ConnectionError):
                message.ack()
            assert consumer.channel.qos.can_consume()
