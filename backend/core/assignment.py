"""What a supervisor and its trainer say to each other: files in the attempt's folder, so that nothing is lost with a process.

assignment.json   supervisor → trainer, once, before the trainer starts
control.jsonl     supervisor → trainer, one `Order` or `Change` a line, read at every step boundary
events.jsonl      trainer → supervisor, the journal: one `Line` each, shipped to Postgres exactly once
checkpoints/checkpoint-<step>/   published by rename, each with `manifest.json` and a copy of the journal so far
artifacts/<kind>/                published by rename, recorded by an `artifact` line
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from backend.core.recipe import Recipe

JOURNAL, CONTROL, ASSIGNMENT = "events.jsonl", "control.jsonl", "assignment.json"
CHECKPOINTS, ARTIFACTS, MANIFEST = "checkpoints", "artifacts", "manifest.json"


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataFile(_Wire):
    """One pinned data-set version: normalised rows in Parquet."""

    name: str
    version: int
    path: Path
    weight: float | None = None


class Checkpoint(_Wire):
    """A checkpoint to go on from."""

    folder: Path
    step: int
    attempt: int


class Amendment(_Wire):
    """A change in mid-run. `step` is the first step that it holds for; None: apply at the next boundary and say so."""

    sequence: int
    field: Literal["training.learning_rate", "evaluation.prompts", "evaluation.sample_steps", "training.max_steps"]
    value: JsonValue
    step: int | None = None


class Word(StrEnum):
    """What a trainer may be told: `pause` saves and exits; `keep` saves, exports and exits."""

    PAUSE = "pause"
    KEEP = "keep"


class Assignment(_Wire):
    """All that a trainer is given. It has no credentials and asks nobody else."""

    v: Literal[1] = 1
    run: str
    attempt: int
    folder: Path
    recipe: Recipe
    model_folder: Path
    data: tuple[DataFile, ...]
    resume: Checkpoint | None = None
    word: Word | None = None
    amendments: tuple[Amendment, ...] = ()
    device: str = "cpu"
    run_name: str = ""


class Order(_Wire):
    kind: Literal["order"] = "order"
    word: Word


class Change(_Wire):
    kind: Literal["change"] = "change"
    amendment: Amendment


Control = TypeAdapter[Order | Change](Annotated[Order | Change, Field(discriminator="kind")])


class LineKind(StrEnum):
    """The kinds of journal lines, with the keys that each carries in `data`."""

    PHASE = "phase"  # phase: loading | preparing | training | saving | exporting; text
    FACTS = "facts"  # any facts to be merged into the run's: total_steps, quantised_layers, skipped_layers, rows …
    METRICS = "metrics"  # values: {name: number | "NaN" | "Infinity" | "-Infinity"}; epoch
    SAMPLE = "sample"  # index, prompt, text, tokens, finish: "stop" | "length"
    CHECKPOINT = "checkpoint"  # folder (relative to the attempt's), manifest_sha256, bytes
    AMENDED = "amended"  # sequence; `step` is the first step that it holds for
    PROGRESS = "progress"  # what, done, total
    LOG = "log"  # level: info | warning | error; text
    ARTIFACT = "artifact"  # kind, folder (relative), files: [{name, bytes, sha256, crc32}], bytes, sha256, facts
    END = "end"  # outcome: done | paused | empty | failed; cause: {code, message, hint} where failed


class Line(_Wire):
    """One line of the journal. `n` counts from 0 in each attempt, `t` is seconds since the epoch, `step` the optimizer step."""

    v: Literal[1] = 1
    n: int
    t: float
    kind: LineKind
    step: int = 0
    data: dict[str, Any] = Field(default_factory=dict)


class Outcome(StrEnum):
    """How a trainer that exits by itself ends. One that writes no `end` line died."""

    DONE = "done"
    PAUSED = "paused"
    EMPTY = "empty"  # told to keep before the first step: there is nothing to keep
    FAILED = "failed"  # a cause that trying again will not mend
