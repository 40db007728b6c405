"""One studio for each file of journeys, with the tiny base model and, where it stands, the shared one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SHARED
from tests.journeys.materials import Material, write_alpaca
from tests.support.studios import Studio, running_studio

STORIES = SHARED / "models" / "stories260k"


@pytest.fixture(scope="module")
def studio(tiny_base: Path) -> Iterator[Studio]:
    with running_studio(tiny_base, *([STORIES] if STORIES.is_dir() else [])) as running:
        yield running
        running.stop()


@pytest.fixture(params=["own", pytest.param("shared", marks=pytest.mark.shared)])
def material(request: pytest.FixtureRequest, tiny_base: Path, tmp_path: Path) -> Material:
    """What the project makes itself, and the real thing."""
    if request.param == "own":
        return Material(tiny_base, write_alpaca(tmp_path / "questions.json"), rows=60)
    return Material(STORIES, SHARED / "data" / "alpaca_en_demo.json", rows=999, batch=1)
