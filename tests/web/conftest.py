"""A real application on a real database, and clients that are signed in to it."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, BrowserContext, Page
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core import db, people, runs
from backend.core.models import Role, Run, User
from backend.core.people import Identity
from backend.core.recipe import read_recipe
from backend.core.settings import Settings
from backend.web.app import create_app
from backend.web.bodies import Line
from tests.support.trouble import signed_in

ADDRESS = "http://127.0.0.1:8321"
RECIPE = {"model": "tiny", "data": {"sets": ["letters"]}, "method": "lora"}


@pytest.fixture
def here(studio_home: Path, database_url: str, valkey_url: str) -> Settings:
    """The settings of a studio of this test's own."""
    return Settings(home=studio_home, DATABASE_URL=database_url, REDIS_URL=valkey_url)


@pytest.fixture
def session(here: Settings) -> Iterator[Session]:
    """The database beside the application; what a test writes, it commits."""
    engine = db.engine(here.database_url, pool_size=1)
    with Session(engine, expire_on_commit=False) as session:
        yield session
    engine.dispose()


@dataclass(frozen=True)
class Account:
    """Somebody with a cookie."""

    identity: Identity
    cookie: str

    @property
    def headers(self) -> dict[str, str]:
        return {
            "cookie": f"studio={self.cookie}",
            "x-csrf-token": self.identity.csrf_token,
            "origin": ADDRESS,
        }


def account(session: Session, role: Role, name: str = "") -> Account:
    """Somebody new. Nobody types the password, so it needs no slow hash."""
    user = people.create(session, name or f"the {role}", "no password", role, by=None)
    cookie = people.sign_in(session, user, "test", hours=1)
    identity = people.find_session(session, cookie)
    session.commit()
    assert identity
    return Account(identity, cookie)


def queued_run(session: Session, name: str = "first", owner: Account | None = None) -> Run:
    """A run in the queue, as a launch leaves it: of `owner`, else of the test's member, where it has one."""
    its = owner.identity.id if owner else session.scalar(select(User.id).where(User.name == f"the {Role.MEMBER}"))
    run = runs.create(
        session,
        recipe=read_recipe(RECIPE | {"name": name}).recipe,
        model={"path": "tiny", "revision": None},
        data=[{"name": "letters", "version": 1, "rows": 3}],
        owner_id=its,
    )
    session.commit()
    return run


@pytest.fixture
async def app(here: Settings) -> AsyncIterator[FastAPI]:
    app = create_app(here)
    async with app.router.lifespan_context(app):
        yield app


def client_of(app: FastAPI, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=ADDRESS, headers=headers)


@pytest.fixture
async def anonymous(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def viewer(app: FastAPI, session: Session) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, account(session, Role.VIEWER).headers) as client:
        yield client


@pytest.fixture
async def member(app: FastAPI, session: Session) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, account(session, Role.MEMBER).headers) as client:
        yield client


@pytest.fixture
async def admin(app: FastAPI, session: Session) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, account(session, Role.ADMIN).headers) as client:
        yield client


@pytest.fixture
def served(here: Settings) -> Iterator[str]:
    """The address of the application behind a real server, for what flows."""
    application = create_app(here)
    config = uvicorn.Config(application, http=Line, port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


# ---- a real browser -------------------------------------------------------------------------------------------------


@pytest.fixture
def context(browser: Browser, served: str, session: Session) -> Iterator[BrowserContext]:
    """A browser in which an administrator is signed in."""
    with signed_in(browser, served, account(session, Role.ADMIN).cookie) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()
