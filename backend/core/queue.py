"""Hints and doorbells. Both only save time: whatever is lost here is found in Postgres a moment later.

A *hint* is a Celery message with an id that tells some worker host to look for work. A *doorbell* is a message on a
Redis channel that tells web processes that a run has news.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, sessionmaker

from backend.core.models import Outbox

if TYPE_CHECKING:
    import redis
    from celery import Celery

log = logging.getLogger(__name__)

HEARD_SECONDS = 1.0
"""How long a doorbell is waited for, and Redis to be reached and to answer: whoever follows a run then looks by themselves."""
POKE = "studio.poke"
QUEUE = "studio"
CHANNEL = "studio:doorbell"
ANSWER_SECONDS = 5
SENT_KEPT = timedelta(days=1)
"""Sent hints are kept for a while, for whoever wonders what was sent."""


def broker_url(redis_url: str) -> str:
    """kombu's spelling of a Redis URL: redis-py writes a unix socket as `unix://`, kombu as `redis+socket://`."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    login = f":{quote(unquote(parts.password), safe='')}@" if parts.password else ""
    return f"redis+socket://{login}{unquote(parts.path)}?virtual_host=0"


def celery_app(redis_url: str) -> Celery:
    """The Celery application: JSON only, one message at a time, no results, and messages that are done once they are taken.

    A worker that cannot acknowledge, since Redis went away at that moment, holds the message for unfinished and takes no other
    ever again, without a word. A hint that is lost with its worker changes nothing.
    """
    from celery import Celery
    from kombu.entity import Queue

    app = Celery("studio", broker=broker_url(redis_url))
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS},
        task_default_queue=QUEUE,
        task_queues=[Queue(QUEUE, no_ack=True)],
    )
    return app


@cache
def _publisher(redis_url: str) -> Celery:
    return celery_app(redis_url)


@cache
def client(redis_url: str) -> redis.Redis:
    """The synchronous client of this process."""
    import redis

    return redis.Redis.from_url(redis_url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS)


def publish(sessions: sessionmaker[Session], redis_url: str) -> int:
    """Send the hints of committed transactions, and mark them sent. Returns how many; 0 while Redis is away."""
    with sessions.begin() as session:
        session.execute(delete(Outbox).where(Outbox.sent_at < func.clock_timestamp() - SENT_KEPT))
        query = (
            select(Outbox)
            .where(Outbox.sent_at.is_(None))
            .order_by(Outbox.id)
            .limit(100)
            .with_for_update(skip_locked=True)
        )
        pending = list(session.execute(query).scalars())
        for row in pending:
            if not _send(redis_url, row.subject):
                return 0
            row.sent_at = func.clock_timestamp()
        return len(pending)


def _send(redis_url: str, subject: str) -> bool:
    from kombu.exceptions import OperationalError

    try:
        _publisher(redis_url).send_task(POKE, args=[subject], retry=False)
    except OperationalError as error:
        log.warning("hints wait: Redis cannot be reached (%s)", error)
        return False
    return True


def ring(redis_url: str, run_ids: Iterable[UUID]) -> None:
    """Tell every web process that these runs have news. Silent where Redis is away: they look by themselves, too."""
    import redis

    with contextlib.suppress(redis.RedisError):
        for run_id in run_ids:
            client(redis_url).publish(CHANNEL, str(run_id))


async def doorbells(redis_url: str) -> AsyncGenerator[str | None, None]:
    """The ids of runs that have news, for ever. None where nothing can be heard for a second, or Redis is away."""
    import redis.asyncio
    from redis.exceptions import RedisError

    while True:
        try:
            made = redis.asyncio.Redis.from_url(
                redis_url, socket_timeout=HEARD_SECONDS, socket_connect_timeout=HEARD_SECONDS
            )
            async with made as connection, connection.pubsub() as channel:
                await channel.subscribe(CHANNEL)
                while True:
                    message = await channel.get_message(ignore_subscribe_messages=True, timeout=HEARD_SECONDS)
                    yield message["data"].decode() if message else None
        except (RedisError, OSError):
            yield None
            await asyncio.sleep(HEARD_SECONDS)
