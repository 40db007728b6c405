"""Files as people and attackers write them, and the way to have them read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.core.datasets.ingest import Order, ingest, ingest_here
from backend.core.datasets.schema import Row, from_record
from backend.core.errors import StudioError

LIMIT = 64 << 30


class Reading:
    """What came of one file: facts and rows, or the error."""

    def __init__(self, facts: dict[str, Any] | None, rows: list[Row], error: StudioError | None) -> None:
        self._facts, self.rows, self._error = facts, rows, error

    @property
    def facts(self) -> dict[str, Any]:
        assert self._facts is not None, f"refused: {self._error}"
        return self._facts

    @property
    def error(self) -> StudioError:
        assert self._error is not None, "the file was taken"
        return self._error

    @property
    def problems(self) -> list[str]:
        """`line 3 rows.type`"""
        return [f"{problem.where} {problem.code}" for problem in self.error.problems]


class Folder:
    """A folder of files to be read: in this process, which is faster, or with `limited` as the product does it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(
        self, name: str, content: bytes | str, *, limited: bool = False, limit_bytes: int = LIMIT, **choices: Any
    ) -> Reading:
        import pyarrow.parquet as pq

        file, target = self.path / "upload", self.path / "normalised.parquet"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        order = Order(str(file), str(target), name, limit_bytes, **choices)
        try:
            facts = ingest(order, timeout_seconds=60) if limited else ingest_here(asdict(order))
        except StudioError as error:
            assert not limited or [path.name for path in self.path.iterdir()] == ["upload"]
            return Reading(None, [], error)
        return Reading(facts, [from_record(record) for record in pq.read_table(target).to_pylist()], None)


def jsonl(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def alpaca(count: int = 3) -> list[dict[str, str]]:
    return [{"instruction": f"Question {n}?", "input": "", "output": f"Answer {n}."} for n in range(1, count + 1)]


def packed(content: str | bytes) -> bytes:
    return gzip.compress(content.encode() if isinstance(content, str) else content, mtime=0)
