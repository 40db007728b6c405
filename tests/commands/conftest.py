"""One real studio for all commands, with the tiny base model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.studios import Studio, running_studio


@pytest.fixture(scope="session")
def studio(tiny_base: Path) -> Iterator[Studio]:
    with running_studio(tiny_base, STUDIO_INLINE_MIB="0") as running:
        yield running
        running.stop()
