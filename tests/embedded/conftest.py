"""A home with a path short enough for sockets, which is empty of processes again when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.homes import short_home


@pytest.fixture
def home() -> Iterator[Path]:
    with short_home() as path:
        yield path
