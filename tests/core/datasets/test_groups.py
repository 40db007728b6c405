"""What is held of a data set does not grow with its rows, however long or however many they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from backend.core.assignment import DataFile
from backend.core.datasets.picking import all_records
from backend.core.datasets.schema import Message, Row
from backend.core.datasets.writer import GROUP_ROWS
from backend.core.rendering.prepare import has_conversations, rows_of
from tests.support.held_rows import MIB, long_rows, most_held, written

LONG = 64
"""Rows of a MiB each: eight of them make a row group."""


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("long") / "a.parquet", long_rows(LONG))


READERS: dict[str, Callable[[Path], Iterable[Any]]] = {
    "all records": all_records,
    "rows to train on": lambda path: rows_of(DataFile(name="a", version=1, path=path)),
}


@pytest.mark.parametrize("reader", READERS)
def test_reading_long_rows_holds_no_more_than_a_few_of_them(long_file: Path, reader: str) -> None:
    held = most_held(lambda: READERS[reader](long_file))
    assert held < 32 * MIB, f"{held / MIB:.0f} MiB of {LONG}"


def test_a_conversation_behind_many_texts_is_seen(tmp_path: Path) -> None:
    texts, talk = long_rows(GROUP_ROWS + 5, 10), Row(9999, (Message("user", "Q"), Message("assistant", "A")))
    files = [DataFile(name=name, version=1, path=tmp_path / name) for name in ("texts", "mixed")]
    written(files[0].path, long_rows(GROUP_ROWS + 5, 10))
    written(files[1].path, [*texts, talk])
    assert [has_conversations([file]) for file in files] == [False, True]
