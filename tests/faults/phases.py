"""Where each run stands at this moment, as the database and the files on the disk tell it, past every broken network."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import psycopg

from tests.faults.parts import HOSTS, Studio

QUERY = """
    SELECT id::text, attempt, holder FROM runs
    WHERE state IN ('queued', 'preparing', 'training', 'finishing') ORDER BY id
"""
PHASES_OF_JOURNAL = {"loading": "preparing", "preparing": "preparing", "training": "training", "exporting": "exporting"}


class Phase(StrEnum):
    """The moments of a run's life that faults are aimed at. `ANY`: no run was looked at."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    PREPARING = "preparing"
    TRAINING = "training"
    SAVING = "saving"
    EXPORTING = "exporting"
    ANY = "any"


HELD = (Phase.CLAIMED, Phase.PREPARING, Phase.TRAINING, Phase.SAVING, Phase.EXPORTING)
SPAWNED = (Phase.PREPARING, Phase.TRAINING, Phase.SAVING, Phase.EXPORTING)
AIMS = (Phase.QUEUED, *HELD)


@dataclass(frozen=True)
class Stand:
    """A run that is going on, and who holds it. Of one that nobody holds, `host` is any."""

    run: str
    attempt: int
    phase: Phase
    host: str

    def folder(self, home: Path) -> Path:
        return home / "runs" / self.run / f"attempt-{self.attempt}"


class Looks:
    """Asks Postgres over one connection of its own, and again from the start where that broke."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._rows: list[tuple[str, int, str | None]] = []

    def stands(self, *, is_frozen: bool) -> list[Stand]:
        """Every run that is going on; none where Postgres cannot be asked now. While it is frozen nobody changes what it
        said last, and it would not answer."""
        if not is_frozen:
            try:
                self._rows = self._ask()
            except psycopg.Error:
                self.close()
                return []
        return [stand for row in self._rows if (stand := self._stand(*row))]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self) -> list[tuple[str, int, str | None]]:
        if self._connection is None:
            self._connection = self._studio.connect()
        return self._connection.execute(QUERY).fetchall()  # type: ignore[return-value]

    def _stand(self, run: str, attempt: int, holder: str | None) -> Stand | None:
        if holder is None:
            return Stand(run, attempt, Phase.QUEUED, HOSTS[0])
        held = Stand(run, attempt, Phase.CLAIMED, holder)
        phase = phase_of(held.folder(self._studio.home))
        return replace(held, phase=phase) if phase else None


def phase_of(folder: Path) -> Phase | None:
    """What the trainer of this attempt is at; none once it is done. Half a checkpoint beside the whole ones: it is saving."""
    if not (folder / "trainer.json").is_file():
        return Phase.CLAIMED
    if any((folder / "checkpoints").glob(".tmp-*")):
        return Phase.SAVING
    return _told(folder / "events.jsonl")


def _told(journal: Path) -> Phase | None:
    """The last phase that the journal tells; none behind its last word."""
    try:
        lines = journal.read_bytes().rpartition(b"\n")[0].splitlines()
    except OSError:
        return Phase.PREPARING
    if lines and json.loads(lines[-1])["kind"] == "end":
        return None
    for line in reversed(lines):
        if b'"phase"' in line and (told := json.loads(line))["kind"] == "phase":
            return Phase(PHASES_OF_JOURNAL.get(told["data"]["phase"], Phase.TRAINING))
    return Phase.PREPARING
