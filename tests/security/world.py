"""A studio that serves, its people, and things of theirs: fresh ones for each request that may change them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any, Literal, get_args
from uuid import UUID

import httpx
import psutil
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core import people, recipes, runs, uploads
from backend.core.datasets import examples
from backend.core.ids import uuid7
from backend.core.models import (
    Artifact,
    Dataset,
    DatasetVersion,
    Operation,
    Role,
    Run,
    User,
    Worker,
)
from backend.core.people import Identity
from backend.core.recipe import read_recipe
from tests.support.webs import PLAIN, Web

MODEL = "tiny-qwen3"
HUB_MODEL = "owls/far"
TAUGHT = "letters"
EXAMPLE = "stories"
ROW = {"instruction": "What eats mice?", "output": "The owl."}
ROWS = "".join(json.dumps(row) + "\n" for row in (ROW, ROW, {"instruction": "And fish?", "output": "The osprey does."}))
RECIPE: dict[str, Any] = {"model": MODEL, "data": {"sets": [TAUGHT], "truncation": "drop"}, "method": "lora"}
ADAPTER: dict[str, Any] = {
    "attempt": 1,
    "step": 1,
    "kind": "adapter",
    "bytes": 0,
    "sha256": "0" * 64,
    "files": [{"name": "README.md", "bytes": 0, "sha256": "0" * 64, "crc32": 0}],
}
PASSWORD = "four words of one's own"

Who = Literal[
    "anonymous", "viewer", "member", "owner", "admin", "admin's token", "admin's viewer token", "owner's token"
]
ACTORS: tuple[Who, ...] = get_args(Who)
"""`owner` is a member whose things are asked for; `member` is another one. The last three are programs."""
TOKENS = {
    "admin's token": ("admin", Role.ADMIN),
    "admin's viewer token": ("admin", Role.VIEWER),
    "owner's token": ("owner", Role.MEMBER),
}
ROLES = {"viewer": Role.VIEWER, "member": Role.MEMBER, "owner": Role.MEMBER, "admin": Role.ADMIN}


@dataclass
class World:
    web: Web
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    setup_token: str = ""

    @cached_property
    def password_hash(self) -> str:
        """One for everybody: each takes long."""
        return people.hash_password(PASSWORD)

    @cached_property
    def people(self) -> dict[str, User]:
        password_hash = self.password_hash  # before the transaction, which may not be idle for long
        with self.web.session() as session:
            made = {
                who: people.by_name(session, f"the {who}")
                or people.create(session, f"the {who}", password_hash, role, by=None)
                for who, role in ROLES.items()
            }
            session.commit()
        return made

    def set_up(self) -> None:
        """The first visit: an administrator by the link that the studio printed."""
        link = (self.web.settings.folder("run") / "setup-link").read_text().strip()
        self.setup_token = link.partition("=")[2]
        form = {"token": self.setup_token, "name": "the admin", "password": PASSWORD, "again": PASSWORD}
        answer = httpx.post(f"{self.web.address}/setup", data=form, trust_env=False, timeout=60)
        assert answer.status_code == 303, answer.text

    @contextmanager
    def client(self, who: Who) -> Iterator[httpx.Client]:
        """A browser of that person's, signed in anew; of nobody's, for a stranger; a program, for a token."""
        headers = {"origin": self.web.address}
        if who in TOKENS:
            headers = {"authorization": f"Bearer {self.token(who)}"}
        elif who != "anonymous":
            identity, cookie = self.sign_in(who)
            headers |= {"cookie": f"studio={cookie}", "x-csrf-token": identity.csrf_token}
        address = self.web.address
        with httpx.Client(base_url=address, headers=headers, timeout=120, trust_env=False, verify=PLAIN) as client:
            yield client

    def sign_in(self, who: Who) -> tuple[Identity, str]:
        with self.web.session() as session:
            cookie = people.sign_in(session, session.get_one(User, self.people[who].id), "a test", hours=1)
            identity = people.find_session(session, cookie)
            session.commit()
        assert identity
        return identity, cookie

    def token(self, who: Who) -> str:
        """The secret of a fresh one."""
        owner, role = TOKENS[who]
        with self.web.session() as session:
            user = session.get_one(User, self.people[owner].id)
            made = people.create_token(session, user, "a program", role=role, days=9, by=None)
            session.commit()
        return made.secret

    def cpu_seconds(self) -> tuple[float, float]:
        """What the web has taken of the processors so far, of its own and of the system."""
        taken = psutil.Process(self.web.process.pid).cpu_times()
        return taken.user, taken.system

    def teach(self) -> None:
        """The data set from which all runs learn; those of `things` are copies of it."""
        with self.client("owner") as client:
            answer = client.put(f"/api/v1/datasets/{TAUGHT}?filename=letters.jsonl", content=ROWS)
            assert answer.status_code == 201, answer.text

    def things(self, who: Who = "owner") -> Things:
        return Things(self, self.people[who].id)


@dataclass
class Things:
    """What belongs to one person: each made when it is first asked for, and told by its name or id, as a route takes it."""

    world: World
    owner: UUID

    def _made(self, make: Callable[[Session, int], str]) -> str:
        with self.world.web.session() as session:
            name = make(session, next(self.world.numbers))
            session.commit()
        return name

    @cached_property
    def run(self) -> str:
        """In the queue."""
        return self._made(lambda session, number: _run(session, f"queued {number}", self.owner).name)

    @cached_property
    def paused(self) -> str:
        return self._made(
            lambda session, number: runs.pause(session, _run(session, f"paused {number}", self.owner).id).name
        )

    @cached_property
    def discarded(self) -> str:
        return self._made(lambda session, number: self._stopped(session, f"discarded {number}", keep=False).name)

    @cached_property
    def ended(self) -> str:
        return self._made(lambda session, number: self._stopped(session, f"ended {number}", keep=True).name)

    def _stopped(self, session: Session, name: str, *, keep: bool) -> Run:
        return runs.stop(session, _run(session, name, self.owner).id, keep=keep)

    @cached_property
    def artifact(self) -> str:
        def make(session: Session, number: int) -> str:
            run = self._stopped(session, f"given {number}", keep=True)
            made = Artifact(id=uuid7(), run_id=run.id, folder=f"runs/{run.id}/attempt-1/artifacts/adapter", **ADAPTER)
            session.add(made)
            return str(made.id)

        return self._made(make)

    @property
    def file(self) -> str:
        """Of the artifact."""
        return str(ADAPTER["files"][0]["name"])

    @cached_property
    def dataset(self) -> str:
        return self._made(lambda session, number: _copied(session, f"owls {number}", self.owner))

    @cached_property
    def example(self) -> str:
        """The key of a data set of ours. It has one name, so whoever took it before gives it up."""
        name = examples.example(EXAMPLE).name

        def make(session: Session, _number: int) -> str:
            taken = session.scalar(select(Dataset).where(Dataset.name == name))
            if taken is None:
                return _copied(session, name, self.owner)
            taken.owner_id = self.owner
            return name

        self._made(make)
        return EXAMPLE

    @cached_property
    def deleted(self) -> str:
        return self._made(lambda session, number: _copied(session, f"gone {number}", self.owner, is_deleted=True))

    @cached_property
    def recipe(self) -> str:
        def make(session: Session, number: int) -> str:
            recipes.save(session, f"style {number}", RECIPE, by=self.owner)
            return f"style {number}"

        return self._made(make)

    @cached_property
    def upload(self) -> str:
        folder, number = self.world.web.settings.folder("uploads"), next(self.world.numbers)
        words = {"dataset": f"sent {number}"}
        return str(uploads.create(folder, len(ROWS), words, str(self.owner), 1 << 30).id)

    @cached_property
    def operation(self) -> str:
        def make(session: Session, number: int) -> str:
            words = {"name": f"owls {number}"}
            session.add(made := Operation(kind="ingest", state="running", input=words, owner_id=self.owner))
            session.flush()
            return str(made.id)

        return self._made(make)

    @cached_property
    def token(self) -> str:
        def make(session: Session, number: int) -> str:
            owner = session.get_one(User, self.owner)
            made = people.create_token(session, owner, f"laptop {number}", role=Role.VIEWER, days=9, by=None)
            return str(made.row.id)

        return self._made(make)

    @cached_property
    def session(self) -> str:
        """A browser that is signed in."""

        def make(session: Session, number: int) -> str:
            people.sign_in(session, session.get_one(User, self.owner), f"browser {number}", hours=1)
            found = people.sessions_of(session, self.owner)
            return next(people.session_name(row) for row in found if row.user_agent == f"browser {number}")

        return self._made(make)

    @cached_property
    def person(self) -> str:
        """Somebody who was never here."""
        return self._made(
            lambda session, number: people.create(session, f"guest {number}", "", Role.VIEWER, by=None).name
        )

    @cached_property
    def worker(self) -> str:
        def make(session: Session, number: int) -> str:
            session.add(Worker(name=f"box {number}", place="here"))
            return f"box {number}"

        return self._made(make)


def _run(session: Session, name: str, owner: UUID) -> Run:
    return runs.create(
        session,
        recipe=read_recipe(RECIPE | {"name": name}).recipe,
        model={"path": MODEL, "revision": None},
        data=[{"name": TAUGHT, "version": 1, "rows": 3}],
        owner_id=owner,
    )


def _copied(session: Session, name: str, owner: UUID, *, is_deleted: bool = False) -> str:
    taught = session.scalars(select(DatasetVersion).join(Dataset).where(Dataset.name == TAUGHT)).first()
    assert taught is not None
    columns = {column.name: getattr(taught, column.name) for column in DatasetVersion.__table__.columns}
    dataset = Dataset(name=name, owner_id=owner, deleted_at=taught.created_at if is_deleted else None)
    session.add(dataset)
    session.flush()
    session.add(DatasetVersion(**columns | {"id": uuid7(), "dataset_id": dataset.id, "number": 1}))
    return name
