"""What a trainer is told while it works: lines of `control.jsonl`, and SIGTERM, which means pause."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from backend.core.assignment import Amendment, Change, Control, Word

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """A pause came in the midst of something that can be made up for later."""


class Channel:
    """Reads new whole lines of the control file when asked. A file that has not grown costs one `stat`.

    A word once told stays: `keep` is stronger than `pause`, since a person chose it.
    """

    def __init__(self, path: Path, word: Word | None = None) -> None:
        self._path, self._offset = path, 0
        self._told: Word | None = word
        self._terminated = False
        self._changes: list[Amendment] = []

    def listen(self) -> None:
        """From now on SIGTERM, the host's shutdown, asks for a pause."""
        signal.signal(signal.SIGTERM, self._on_terminate)

    def _on_terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._terminated = True

    @property
    def word(self) -> Word | None:
        """What the trainer was told last, as of now. The host's shutdown comes before all else: there is little time."""
        self._poll()
        return Word.PAUSE if self._terminated else self._told

    def go_on(self) -> None:
        """Raise `Interrupted` where a pause was told."""
        if self.word is Word.PAUSE:
            raise Interrupted

    def take_changes(self) -> list[Amendment]:
        """Amendments that came since the last call."""
        self._poll()
        taken, self._changes = self._changes, []
        return taken

    def _poll(self) -> None:
        try:
            if self._path.stat().st_size <= self._offset:
                return
        except FileNotFoundError:
            return
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            whole, newline, _half = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            self._hear(line)

    def _hear(self, line: bytes) -> None:
        """A line that cannot be read is told and passed over: it must not end a training, nor hide the word after it."""
        try:
            told = Control.validate_json(line)
        except ValidationError:
            log.error("a control line cannot be read: %r", line[:200])
            return
        if isinstance(told, Change):
            self._changes.append(told.amendment)
        elif self._told is not Word.KEEP:
            self._told = told.word
