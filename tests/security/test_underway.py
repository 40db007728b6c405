"""What had begun when somebody's rights ended is not carried out: a request may take an hour, and asks once more at its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.ids import uuid7
from backend.core.models import Dataset, DatasetVersion, Role, SignIn, User
from tests.security.test_sessions import Guest, by_admin
from tests.security.world import PASSWORD, ROWS, World
from tests.support.processes import wait_until
from tests.support.webs import PLAIN

NEW_HASH = people.hash_password("five words of one's own")
WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
Change = Callable[[Session, Guest], None]


@contextmanager
def held_until_it_waits(
    world: World, ask: Callable[[], httpx.Response], change: Callable[[Session], None]
) -> Iterator[Any]:
    """The answer to a request which meets a change that is under way: it began before that, and waits until it is stored."""
    with world.web.session() as session, ThreadPoolExecutor(1) as thread:
        change(session)
        session.flush()
        answer: Future[httpx.Response] = thread.submit(ask)
        wait_until(lambda: answer.done() or bool(session.scalar(WAITING)), seconds=60)
        assert not answer.done(), f"it did not ask again: {answer.result().status_code}"
        session.commit()
        yield answer.result(60)


def a_new_password(session: Session, guest: Guest) -> None:
    user = people.find(session, guest.name)
    user.password_hash = NEW_HASH
    people.end_sessions(session, user)


def a_suspension(session: Session, guest: Guest) -> None:
    user = people.find(session, guest.name)
    user.disabled_at = datetime.now(UTC)
    people.end_sessions(session, user)


@pytest.mark.parametrize("change", [a_new_password, a_suspension])
def test_a_sign_in_whose_password_fitted_a_moment_ago_does_not_outlive_what_ends_all(
    world: World, change: Change
) -> None:
    guest = Guest(world)
    form = {"name": guest.name, "password": PASSWORD, "next": "/"}

    def ask() -> httpx.Response:
        with world.client("anonymous") as stranger:
            return stranger.post("/signin", data=form)

    with held_until_it_waits(world, ask, lambda session: change(session, guest)) as answer:
        assert "set-cookie" not in answer.headers
        assert answer.status_code == 401, answer.text
    with world.web.session() as session:
        assert session.scalar(select(func.count()).select_from(SignIn).join(User).where(User.name == guest.name)) == 0


def test_an_old_password_that_fitted_a_moment_ago_sets_no_new_one(world: World) -> None:
    """Whoever has it would lock its owner out, who has just changed it."""
    guest = Guest(world)
    assert guest.status(guest.here) == 200  # the next request need not write down that they were here
    words = {"old": PASSWORD, "new": "six words of a thief's own"}

    def ask() -> httpx.Response:
        return httpx.put(
            f"{world.web.address}/api/v1/me/password",
            json=words,
            headers=guest.here,
            timeout=60,
            verify=PLAIN,
            trust_env=False,
        )

    def change(session: Session) -> None:
        people.find(session, guest.name).password_hash = NEW_HASH

    with held_until_it_waits(world, ask, change) as answer:
        assert (answer.status_code, answer.json()["error"]["where"]) == (403, "old"), answer.text
    with world.web.session() as session:
        assert people.find(session, guest.name).password_hash == NEW_HASH


class Flowing:
    """A request whose body is on its way, and whose rest waits for a word."""

    def __init__(self, method: str, address: str, headers: dict[str, str], body: bytes, half: int) -> None:
        self.method, self.address, self.headers = method, address, headers
        self.first, self.rest = body[:half], body[half:]
        self.half, self.go_on = Event(), Event()

    def pieces(self) -> Iterator[bytes]:
        yield self.first
        self.half.set()
        assert self.go_on.wait(60)
        yield self.rest

    def send(self) -> httpx.Response:
        with httpx.Client(headers=self.headers, trust_env=False, verify=PLAIN, timeout=60) as client:
            return client.request(self.method, self.address, content=self.pieces())

    def answer(self, is_known: Callable[[], object], meanwhile: Callable[[], None]) -> httpx.Response:
        """What comes back where something happens while it flows, once the web knows who asks."""
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(self.send)
            assert self.half.wait(60)
            wait_until(is_known, what="that the web knows who asks")
            meanwhile()
            self.go_on.set()
            return answer.result(60)


def as_member(guest: Guest) -> dict[str, str]:
    """A program of the guest's that may write."""
    with guest.world.web.session() as session:
        user = people.find(session, guest.name)
        made = people.create_token(session, user, "writer", role=Role.MEMBER, days=9, by=None)
        session.commit()
    return {"authorization": f"Bearer {made.secret}"}


def revoked(guest: Guest) -> None:
    with guest.world.web.session() as session:
        people.revoke_all_tokens(session, people.find(session, guest.name), by=None)
        session.commit()


ENDS: dict[str, tuple[Callable[[Guest], dict[str, str]], Callable[[Guest], None], int]] = {
    "a suspension": (lambda g: g.here, by_admin("PATCH", "/api/v1/people/{guest.name}", json={"disabled": True}), 401),
    "a sign-out": (lambda g: g.here, by_admin("DELETE", "/api/v1/people/{guest.name}/sessions"), 401),
    "a removal": (lambda g: g.here, by_admin("DELETE", "/api/v1/people/{guest.name}"), 401),
    "a lower role": (as_member, by_admin("PATCH", "/api/v1/people/{guest.name}", json={"role": "viewer"}), 403),
    "tokens that are revoked": (as_member, revoked, 401),
    "nothing": (as_member, lambda _guest: None, 201),
}


@pytest.mark.parametrize("kind", ENDS)
def test_a_file_that_flows_while_its_senders_rights_end_makes_no_version(world: World, kind: str) -> None:
    right, end, status = ENDS[kind]
    guest = Guest(world)
    name, uploads = f"of-{guest.name.replace(' ', '-')}", world.web.settings.folder("uploads")
    address = f"{world.web.address}/api/v1/datasets/{name}?filename=letters.jsonl"
    flowing = Flowing("PUT", address, right(guest), ROWS.encode(), 40)
    answer = flowing.answer(lambda: list(uploads.glob("*.body")), lambda: end(guest))
    assert answer.status_code == status, answer.text
    with world.web.session() as session:
        made = session.scalar(select(func.count()).select_from(Dataset).where(Dataset.name == name))
    assert made == (status == 201)
    assert not list(uploads.glob("*.body")), "what came was kept"


SECRETS: dict[str, tuple[str, dict[str, str]]] = {
    "a token": ("/api/v1/tokens", {"name": "laptop", "role": "viewer", "days": "9"}),
    "a link for somebody new": ("/api/v1/people", {"name": "heir of {guest.name}", "role": "admin"}),
    "a link for oneself": ("/api/v1/people/{guest.name}/invitation", {}),
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_that_is_asked_for_while_a_sign_in_ends_is_not_given_out(world: World, kind: str) -> None:
    """A thief holds the last byte back until the owner has signed out everywhere."""
    path, words = SECRETS[kind]
    guest = Guest(world)
    with world.web.session() as session:
        people.find(session, guest.name).role = Role.ADMIN
        session.commit()
    body = json.dumps({name: each.format(guest=guest) for name, each in words.items()}).encode()

    def is_known() -> bool:
        own = select(func.count(SignIn.seen_at)).join(User).where(User.name == guest.name)
        with world.web.session() as session:
            return bool(session.scalar(own))

    address, headers = world.web.address + path.format(guest=guest), guest.here | {"content-type": "application/json"}
    sign_out = by_admin("DELETE", "/api/v1/people/{guest.name}/sessions")
    answer = Flowing("POST", address, headers, body, len(body) - 1).answer(is_known, lambda: sign_out(guest))
    assert answer.status_code == 401, answer.text


def test_a_free_name_that_is_anothers_by_the_time_the_rows_are_read_gets_no_version(world: World) -> None:
    guest = Guest(world)
    name = f"of-both-{guest.name.split()[1]}"

    def ask() -> httpx.Response:
        address = f"{world.web.address}/api/v1/datasets/{name}?filename=letters.jsonl"
        return httpx.put(address, content=ROWS, headers=guest.here, timeout=60, verify=PLAIN, trust_env=False)

    def change(session: Session) -> None:
        session.add(Dataset(id=uuid7(), name=name, owner_id=world.people["member"].id))

    with held_until_it_waits(world, ask, change) as answer:
        assert answer.status_code == 403, answer.text
    with world.web.session() as session:
        made = select(func.count()).select_from(DatasetVersion).join(Dataset).where(Dataset.name == name)
        assert session.scalar(made) == 0
