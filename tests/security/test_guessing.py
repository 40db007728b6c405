"""Passwords that are guessed at the door of a real studio: how many it hears out, and how many it hashes at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pytest

from backend.core import people, throttle
from backend.core.models import Role
from backend.web.studio import HASHES_AT_ONCE
from tests.hostile.studio import MIB, Cost, watched
from tests.security.world import PASSWORD, World
from tests.support.webs import PLAIN

HASH_MIB = 64
"""What Argon2id takes while it hashes one password."""
AT_THE_DOOR = 8
HOME, AWAY, ELSEWHERE = "203.0.113.7", "198.51.100.7", "198.51.100.8"


@contextmanager
def coming_from(world: World, address: str) -> Iterator[httpx.Client]:
    """A stranger behind a proxy on this machine, so that no other test's failures are counted with theirs."""
    with httpx.Client(
        base_url=world.web.address,
        headers={"origin": world.web.address, "x-forwarded-for": address},
        timeout=120,
        trust_env=False,
        verify=PLAIN,
    ) as client:
        yield client


@pytest.fixture
def guessed(world: World) -> str:
    """Somebody who has signed in at home."""
    password_hash = world.password_hash
    with world.web.session() as session:
        people.create(session, "the guessed", password_hash, Role.MEMBER, by=None)
        session.commit()
    with coming_from(world, HOME) as owner:
        assert tried(owner, "the guessed", PASSWORD).status_code == 303
    return "the guessed"


def tried(client: httpx.Client, name: str, password: str) -> httpx.Response:
    return client.post("/signin", data={"name": name, "password": password})


def test_the_eleventh_wrong_password_is_not_heard_out_and_the_owner_still_comes_in(world: World, guessed: str) -> None:
    with coming_from(world, AWAY) as stranger:
        answers = [tried(stranger, guessed, f"guess {number}") for number in range(throttle.AN_ACCOUNT + 1)]
        assert [answer.status_code for answer in answers] == [401] * throttle.AN_ACCOUNT + [429]
        assert 0 < int(answers[-1].headers["retry-after"]) <= throttle.WINDOW.total_seconds()
        assert tried(stranger, guessed, PASSWORD).status_code == 429, "the right one is not told apart"
    with coming_from(world, ELSEWHERE) as another, coming_from(world, HOME) as owner:
        assert tried(another, guessed, PASSWORD).status_code == 429, "whoever has many addresses has no more guesses"
        assert tried(owner, guessed, PASSWORD).status_code == 303


def test_no_more_passwords_are_hashed_at_once_than_two(world: World) -> None:
    """Seen by the memory that each takes: of eight strangers who come together no third is hashed beside two others."""
    guess(world, 0)  # what this loads stays
    web, cost = psutil.Process(world.web.process.pid), Cost()
    before = web.memory_info().rss / MIB
    with watched(web.pid, cost), ThreadPoolExecutor(AT_THE_DOOR) as door:
        statuses = list(door.map(lambda number: guess(world, number), range(1, AT_THE_DOOR + 1)))
    assert statuses == [401] * AT_THE_DOOR
    assert HASHES_AT_ONCE == 2
    assert web.memory_info().rss / MIB - before < HASH_MIB / 2, "what a hash took is given back"
    assert 1.2 * HASH_MIB < cost.own_mib < 2.7 * HASH_MIB


def guess(world: World, number: int) -> int:
    with coming_from(world, f"192.0.2.{number}") as stranger:
        return tried(stranger, f"nobody {number}", "a guess").status_code
