"""A sign-in ends when it should: at once for what is asked next, within seconds for what is being read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import func, text, update

from backend.core import people
from backend.core.models import ApiToken, Role, SignIn, User
from backend.web.standing import FRESH_SECONDS
from backend.web.stream import CHECK_SECONDS
from tests.security.world import PASSWORD, RECIPE, World
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
    def there_by_name(self) -> str:
        """What the other browser is called in the list of them."""
        return people.hashed(self.there["cookie"].partition("=")[2])[:16]

    @property
    def program(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}

    def status(self, headers: dict[str, str]) -> int:
        address = f"{self.world.web.address}/api/v1/me"
        return httpx.get(address, headers=headers, trust_env=False, verify=PLAIN, timeout=60).status_code

    def ask(self, method: str, path: str, *, by: dict[str, str] | None = None, **words: object) -> int:
        address = self.world.web.address + path
        with httpx.Client(headers=by or self.here, trust_env=False, verify=PLAIN, timeout=60) as client:
            return client.request(method, address, **words).status_code  # type: ignore[arg-type]


Act = Callable[[Guest], None]


def by_admin(method: str, path: str, **words: object) -> Act:
    def act(guest: Guest) -> None:
        with guest.world.client("admin") as admin:
            assert admin.request(method, path.format(guest=guest), **words).is_success  # type: ignore[arg-type]

    return act


def by_oneself(method: str, path: str, **words: object) -> Act:
    return lambda guest: _done(guest.ask(method, path.format(guest=guest), **words))  # type: ignore[arg-type]


def _done(status: int) -> None:
    assert status < 400


def by_link(guest: Guest) -> None:
    """An administrator makes one for somebody who has lost the password, and who sets it by the link."""
    with guest.world.client("admin") as admin:
        made = admin.post(f"/api/v1/people/{guest.name}/invitation")
        assert made.status_code == 201
    form = {"token": made.json()["link"].partition("=")[2], "password": PASSWORD, "again": PASSWORD}
    with guest.world.client("anonymous") as stranger:
        assert stranger.post("/invitation", data=form).status_code == 303


def running_out(kind: type[SignIn | ApiToken]) -> Act:
    """All of that kind that the guest has end by themselves, a second from now."""

    def act(guest: Guest) -> None:
        with guest.world.web.session() as session:
            user = people.find(session, guest.name)
            soon = func.clock_timestamp() + text("interval '1 second'")
            session.execute(update(kind).where(kind.user_id == user.id).values(expires_at=soon))
            session.commit()
        assert guest.status(guest.here) == guest.status(guest.program) == 200
        time.sleep(1.1)

    return act


PASSWORDS = {"old": PASSWORD, "new": PASSWORD}
ENDS: dict[str, tuple[Act, tuple[str, ...]]] = {
    "signing out": (by_oneself("POST", "/signout"), ("here",)),
    "signing out everywhere else": (by_oneself("DELETE", "/api/v1/me/sessions"), ("there",)),
    "a new password": (by_oneself("PUT", "/api/v1/me/password", json=PASSWORDS), ("there",)),
    "a new password, and no more tokens": (
        by_oneself("PUT", "/api/v1/me/password", json=PASSWORDS | {"revoke_tokens": True}),
        ("there", "program"),
    ),
    "one browser of several, by its name": (
        by_oneself("DELETE", "/api/v1/me/sessions/{guest.there_by_name}"),
        ("there",),
    ),
    "one browser of several, on the page": (
        by_oneself("POST", "/settings/sessions/{guest.there_by_name}/end"),
        ("there",),
    ),
    "a sign-in that runs out": (running_out(SignIn), ("here", "there")),
    "a token that runs out": (running_out(ApiToken), ("program",)),
    "an administrator's new password": (
        by_admin("PATCH", "/api/v1/people/{guest.name}", json={"password": PASSWORD}),
        ("here", "there"),
    ),
    "a link that was used": (by_link, ("here", "there")),
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


def test_a_lower_role_ends_writes_at_once_and_no_stream(world: World) -> None:
    """Whoever may still look goes on looking: by a browser, and by a token that was made when its owner could do more."""
    guest, things = Guest(world), world.things()
    with world.web.session() as session:
        user = people.find(session, guest.name)
        guest.secret = people.create_token(session, user, "writer", role=Role.MEMBER, days=9, by=None).secret
        session.commit()
    mine = {"json": {"name": f"of {guest.name}", "recipe": RECIPE}}
    ways = (guest.here, guest.program)
    with opened(guest, guest.here, things.run) as here, opened(guest, guest.program, things.run) as there:
        assert [guest.ask("POST", "/api/v1/recipes", by=way, **mine) for way in ways] == [201, 201]
        by_admin("PATCH", "/api/v1/people/{guest.name}", json={"role": "viewer"})(guest)
        assert [guest.ask("POST", "/api/v1/recipes", by=way, **mine) for way in ways] == [403, 403]
        assert [guest.status(way) for way in ways] == [200, 200]
        time.sleep(2 * (CHECK_SECONDS + FRESH_SECONDS))  # after which a stream of somebody who may not look has ended
        with world.client("owner") as owner:
            assert owner.post(f"/api/v1/runs/{things.run}/stop", json={"keep": True}).is_success
        for lines in (here, there):
            assert any(line == "event: end" for line in lines), "the stream ended before its run did"


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
