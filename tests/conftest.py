"""What every test may ask for: a real Postgres and Valkey, a migrated database of its own, a home, a browser, `../shared`."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backend.embedded.postgres import start_postgres
from backend.embedded.service import Service
from backend.embedded.valkey import start_valkey
from tests.support.browsers import find_chromium, running_chromium
from tests.support.databases import create_database, fresh_database, url_of
from tests.support.homes import own_home

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
LONG = ("faults", "fuzz", "journeys", "hostile", "security", "benchmarks", "worker")
"""Folders whose files take minutes. They begin first, and so do browsers, so that no worker is left alone at the end."""
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 4 << 30
"""A file system in memory, and how much of it has to be free; Docker's own has less by far."""
PATIENCE_MS = 20_000
"""How long a browser waits for what a page shall show: a busy machine takes its time to read rows."""

pytest_plugins = ["tests.support.models", "tests.support.labs", "tests.support.figures"]


def pytest_configure() -> None:
    """Whoever starts the suite in the background has its interrupts ignored, and would those of everything that it starts. Who
    ends it by SIGTERM interrupts it: the studios that it started end with it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first. Tests marked `shared` are skipped, in words, where that folder does not stand beside
    the checkout."""
    items.sort(key=lambda item: not _takes_long(item))
    if SHARED.is_dir():
        return
    absent = pytest.mark.skip(reason=f"no folder {SHARED.name} beside the checkout")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(absent)


def _takes_long(item: pytest.Item) -> bool:
    has_browser = "chromium_path" in getattr(item, "fixturenames", ())
    return has_browser or item.path.relative_to(ROOT / "tests").parts[0] in LONG


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models that several projects share; for tests marked `shared`."""
    return SHARED


@pytest.fixture(scope="session")
def service_home() -> Iterator[Path]:
    """The home of this test process's own Postgres and Valkey. Its path is short, as unix sockets need, and it lies in memory
    where there is room: every test makes and drops a database, which is some hundred files."""
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    home = own_home(MEMORY if in_memory else Path("/tmp"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(service_home: Path) -> Iterator[Service]:
    """A real Postgres that forgets on a power cut, one for each test process."""
    service = start_postgres(service_home, fast=True)
    yield service
    service.stop()


@pytest.fixture(scope="session")
def database_template(postgres_server: Service) -> str:
    """The name of a migrated database that others are cloned from."""
    from backend.core.db import migrate

    name = "template_migrated"
    create_database(postgres_server, name, "template0")
    migrate(url_of(postgres_server, name))
    return name


@pytest.fixture
def database_url(postgres_server: Service, database_template: str) -> Iterator[str]:
    """An empty, migrated database of this test's own."""
    with fresh_database(postgres_server, database_template) as url:
        yield url


@pytest.fixture(scope="session")
def valkey_server(service_home: Path) -> Iterator[Service]:
    """A real Valkey, one for each test process."""
    service = start_valkey(service_home)
    yield service
    service.stop()


@pytest.fixture
def valkey_url(valkey_server: Service) -> str:
    """An empty Valkey."""
    import redis

    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server.url


@pytest.fixture
def studio_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home that the settings of this process point at, with no service set."""
    from backend.core.settings import settings

    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for name in [name for name in os.environ if name.startswith("STUDIO_")] + ["DATABASE_URL", "REDIS_URL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STUDIO_HOME", str(home))
    settings.cache_clear()
    yield home
    settings.cache_clear()


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """A Chromium that starts. Where there is none the test fails: journeys are never skipped in silence."""
    found = find_chromium()
    if found is None:
        pytest.fail("No Chromium was found. Run: python -m tests.support.browsers", pytrace=False)
    return found


@pytest.fixture(scope="module")
def browser(chromium_path: Path) -> Iterator[Browser]:
    """One a file: Playwright's loop must be gone before tests with a loop of their own."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE_MS)
    with running_chromium(chromium_path) as browser:
        yield browser
