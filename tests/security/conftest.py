"""One studio for everything that is tried on it: it has to bear one attack after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.core.settings import Settings
from tests.security.world import HUB_MODEL, World
from tests.support.hub import Shelf, hub_of
from tests.support.webs import running_web


@pytest.fixture(scope="session")
def world(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    cache = tmp_path_factory.mktemp("hub")
    shelf = Shelf({HUB_MODEL: tiny_base})
    with hub_of(shelf) as hub, running_web(tiny_base, HF_ENDPOINT=hub, HF_HOME=str(cache)) as web:
        world = World(web)
        world.set_up()
        world.teach()
        yield world


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    """Settings of an application whose routes are looked at and which serves nobody."""
    return Settings(home=tmp_path, DATABASE_URL="postgresql://nowhere/x", REDIS_URL="redis://nowhere")
