from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.datasets.files import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "reading"
    path.mkdir()
    return Folder(path)
