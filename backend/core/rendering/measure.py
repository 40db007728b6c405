"""Measures every row of a data set with the trainer's own code. Runs in a limited process for `backend.core.lengths`."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from backend.core.assignment import DataFile
from backend.core.errors import Problem
from backend.core.lengths import ARRAYS, CONTROL, ENDLESS, MAX_ROWS, REFUSED, TALLIES, Lengths, save
from backend.core.limited import report
from backend.core.rendering.masks import encode_rows
from backend.core.rendering.prepare import BATCH_ROWS, count_rows, has_conversations, rows_of
from backend.core.rendering.tokenizer import load_tokenizer
from backend.core.rendering.types import Encoded, Prepared
from backend.core.rendering.without_torch import without_torch

PROBLEMS = 20


def measure_here(payload: dict[str, Any]) -> dict[str, int]:
    """Writes `target`. Payload: `file`, `target`, `model_folder`, `chat_template`, `assistant_only_loss`."""
    without_torch()
    file = DataFile(name="rows", version=1, path=payload["file"])
    prepared = load_tokenizer(
        Path(payload["model_folder"]), payload["chat_template"], conversations=has_conversations([file])
    )
    total = count_rows(file)
    ruler, rows = Ruler(), islice(rows_of(file), MAX_ROWS)
    while batch := list(islice(rows, BATCH_ROWS)):
        for each in encode_rows(batch, prepared, assistant_only_loss=payload["assistant_only_loss"]):
            ruler.add(each)
        report({"done": len(ruler.arrays["tokens"]), "of": min(total, MAX_ROWS)})
    save(ruler.lengths(total, prepared), Path(payload["target"]))
    return {"rows": len(ruler.arrays["tokens"])}


@dataclass
class Ruler:
    """What has been measured so far."""

    arrays: dict[str, Any] = field(default_factory=lambda: {name: array(code) for name, code in ARRAYS})
    tallies: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in TALLIES})
    problems: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: Encoded | Problem) -> None:
        if isinstance(row, Problem):
            self._note(0, 0, 0, REFUSED)
            if len(self.problems) < PROBLEMS:
                self.problems.append(row.as_json())
            return
        endless = any(span.train and not span.ends for span in row.spans)
        flags = (ENDLESS if endless else 0) | (CONTROL if row.control_text else 0)
        spans = spans_of(row)
        learned = sum(stop - start for start, stop in spans)
        end_at = _end(row, spans[-1][1] - 1) if spans else 0
        self._note(len(row), learned, end_at, flags)
        self.tallies["all"][len(row)] += 1
        if spans:
            self._teach(len(row), spans, None if endless else end_at, learned)
        else:
            self.tallies["barren"][len(row)] += 1

    def _note(self, *values: int) -> None:
        for (name, _), value in zip(ARRAYS, values, strict=True):
            self.arrays[name].append(value)

    def _teach(self, length: int, spans: list[tuple[int, int]], end_at: int | None, learned: int) -> None:
        tallies = self.tallies
        tallies["useful"][length] += 1
        tallies["learned"][length] += learned
        tallies["first"][spans[0][0]] += 1
        tallies["last"][length - spans[-1][1]] += 1
        for start, stop in spans:
            tallies["starts"][start] += 1
            tallies["stops"][stop] += 1
            tallies["starts_back"][length - stop] += 1
            tallies["stops_back"][length - start] += 1
        if end_at is not None:
            tallies["ends"][end_at] += 1
            tallies["ended"][length] += 1

    def lengths(self, rows_in_all: int, prepared: Prepared) -> Lengths:
        has_chat = prepared.chat is not None
        end = prepared.chat.turn_end if has_chat else prepared.document_end_id
        token = end if isinstance(end, str) or end is None else prepared.tokenizer.convert_ids_to_tokens(end)
        return Lengths(
            rows_in_all=rows_in_all,
            context_length=prepared.context_length,
            end_token=token or "",
            template_source=prepared.template_source,
            notes=prepared.notes,
            problems=tuple(self.problems),
            tallies=self.tallies,
            **self.arrays,
        )


def spans_of(row: Encoded) -> list[tuple[int, int]]:
    """The stretches of learned tokens, `[start, stop)`."""
    import numpy as np

    edges = np.flatnonzero(np.diff(row.trained.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _end(row: Encoded, last: int) -> int:
    """The first token that reaches as far as the last learned one: several tokens may share a character."""
    import numpy as np

    return int(np.searchsorted(row.ends, row.ends[last]))
