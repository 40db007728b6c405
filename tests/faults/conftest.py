"""Who asks a module's own `studio`, and what with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.commands.client import Client
from tests.journeys.materials import Material, write_alpaca
from tests.support.studios import Studio


@pytest.fixture(scope="module")
def client(studio: Studio) -> Iterator[Client]:
    with studio.client() as client:
        yield client


@pytest.fixture(scope="module")
def material(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(tiny_base, write_alpaca(tmp_path_factory.mktemp("rows") / "rows.json"), rows=60)
