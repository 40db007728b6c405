"""A sign-in ends when it should: at once for what is asked next, within seconds for what is being read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import httpx
import pytest

from backend.core import people
from backend.core.models import Role, User
from tests.security.world import PASSWORD, World
from tests.support.webs import PLAIN

SECONDS = 30
"""Within how long a stream has ended on a machine that is busy; on one that is not it takes four."""


class Guest:
    """Somebody with two browsers and a program."""

    def __init__(self, world: World) -> None:
        self.world, self.name = world, f"guest {uuid4().hex[:8]}"
        password_hash = world.password_hash
        with world.web.session() as session:
            user = people.create(session, self.name, password_hash, Role.MEMBER, by=None)
            made = people.create_token(session, user, "laptop", role=Role.VIEWER, days=9, by=None)
            self.secret, self.token = made.secret, str(made.row.id)
            session.commit()
        self.here, self.there = self.browser(), self.browser()

    def browser(self) -> dict[str, str]:
        with self.world.web.session() as session:
            user = people.by_name(session, self.name)
            assert isinstance(user, User)
            cookie = people.sign_in(session, user, "a browser", hours=1)
            found = people.find_session(session, cookie)
            session.commit()
        assert found
        return {"cookie": f"studio={cookie}", "x-csrf-token": found.csrf_token, "origin": self.world.web.address}

    @property
    def program(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}

    def status(self, headers: dict[str, str]) -> int:
        address = f"{self.world.web.address}/api/v1/me"
        return httpx.get(address, headers=headers, trust_env=False, verify=PLAIN, timeout=60).status_code

    def ask(self, method: str, path: str, **words: object) -> int:
        address = self.world.web.address + path
        with httpx.Client(headers=self.here, trust_env=False, verify=PLAIN, timeout=60) as client:
            return client.request(method, address, **words).status_code  # type: ignore[arg-type]


Act = Callable[[Guest], None]


def by_admin(method: str, path: str, **words: object) -> Act:
    def act(guest: Guest) -> None:
        with guest.world.client("admin") as admin:
            assert admin.request(method, path.format(guest=guest), **words).is_success  # type: ignore[arg-type]

    return act


def by_oneself(method: str, path: str, **words: object) -> Act:
    return lambda guest: _done(guest.ask(method, path.format(guest=guest), **words))


def _done(status: int) -> None:
    assert status < 400


PASSWORDS = {"old": PASSWORD, "new": PASSWORD}
ENDS: dict[str, tuple[Act, tuple[str, ...]]] = {
    "signing out": (by_oneself("POST", "/signout"), ("here",)),
    "signing out everywhere else": (by_oneself("DELETE", "/api/v1/me/sessions"), ("there",)),
    "a new password": (by_oneself("PUT", "/api/v1/me/password", json=PASSWORDS), ("there",)),
    "a new password, and no more tokens": (
        by_oneself("PUT", "/api/v1/me/password", json=PASSWORDS | {"revoke_tokens": True}),
        ("there", "program"),
    ),
    "a revoked token": (by_oneself("DELETE", "/api/v1/tokens/{guest.token}"), ("program",)),
    "an administrator's sign-out": (by_admin("DELETE", "/api/v1/people/{guest.name}/sessions"), ("here", "there")),
    "a suspension": (
        by_admin("PATCH", "/api/v1/people/{guest.name}", json={"disabled": True}),
        ("here", "there", "program"),
    ),
    "a removal": (by_admin("DELETE", "/api/v1/people/{guest.name}"), ("here", "there", "program")),
}
WAYS_IN = ("here", "there", "program")


@pytest.mark.parametrize("kind", ENDS)
def test_what_ends_a_sign_in_ends_its_requests_at_once_and_its_streams_within_seconds(world: World, kind: str) -> None:
    act, ended = ENDS[kind]
    guest, run = Guest(world), world.things().run
    with opened(guest, guest_headers(guest, ended[-1]), run) as lines:
        assert {way: guest.status(guest_headers(guest, way)) for way in WAYS_IN} == dict.fromkeys(WAYS_IN, 200)
        act(guest)
        expected = {way: 401 if way in ended else 200 for way in WAYS_IN}
        assert {way: guest.status(guest_headers(guest, way)) for way in WAYS_IN} == expected
        began = time.monotonic()
        assert not [line for line in lines if line == "event: end"], "the run goes on, the stream does not"
        assert time.monotonic() - began < SECONDS


def guest_headers(guest: Guest, way: str) -> dict[str, str]:
    headers: dict[str, str] = getattr(guest, way)
    return headers


@contextmanager
def opened(guest: Guest, headers: dict[str, str], run: str) -> Iterator[Iterator[str]]:
    """The lines of a stream of a run that nobody holds."""
    address = f"{guest.world.web.address}/api/v1/runs/{run}/events"
    with httpx.stream("GET", address, headers=headers, timeout=60, trust_env=False) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith("data:"))
        yield lines


def test_a_set_up_link_works_once(world: World) -> None:
    form = {"token": "used", "name": "eve", "password": PASSWORD, "again": PASSWORD}
    with world.client("anonymous") as stranger:
        assert stranger.post("/setup", data=form).status_code == 403
        assert stranger.get("/setup", params={"token": world.setup_token}).status_code == 403
        assert stranger.post("/setup", data=form | {"token": world.setup_token}).status_code == 403
    with world.web.session() as session:
        assert people.by_name(session, "eve") is None


def test_a_huge_password_is_refused_without_being_hashed(world: World) -> None:
    with world.client("anonymous") as stranger:
        hashing = signed_in(stranger, world, "somebody else")
        form, before = {"name": "the admin", "password": "x" * (10 << 20)}, sum(world.cpu_seconds())
        assert {stranger.post("/signin", data=form).status_code for _ in range(4)} == {413}
        assert sum(world.cpu_seconds()) - before < hashing / 2


def test_a_name_that_nobody_has_takes_as_long_as_one_that_somebody_has(world: World) -> None:
    """Both are hashed: the work of the server is the same, whatever else the machine does."""
    with world.client("anonymous") as stranger:
        took = {name: signed_in(stranger, world, name) for name in ("the viewer", "nobody of that name")}
    known, unknown = took.values()
    assert 0.5 < known / unknown < 2, took


def signed_in(stranger: httpx.Client, world: World, name: str) -> float:
    """Seconds of the server's processors that a failed sign-in takes."""
    before = sum(world.cpu_seconds())
    for _ in range(4):
        assert stranger.post("/signin", data={"name": name, "password": "not that"}).status_code == 401
    return sum(world.cpu_seconds()) - before
