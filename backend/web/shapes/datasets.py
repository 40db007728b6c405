"""Data sets: versions, files on their way in, rows as a model reads them, and what may be wrong with them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from backend.web.shapes.common import MOST, ErrorBody, Json, Out, ProblemOut


class PastVersionOut(Out):
    """An immutable version of a data set."""

    id: UUID
    number: int
    source_name: str = Field(examples=["alpaca.jsonl"])
    source_bytes: int
    source_sha256: str
    sha256: str
    bytes: int
    format: str = Field(examples=["alpaca"])
    kind: str = Field(examples=["messages"])
    rows: int
    created_at: datetime


class VersionOut(PastVersionOut):
    facts: Json = Field(description="What reading it found: columns, lengths, problems, duplicates.")


class DatasetOut(Out):
    id: UUID
    name: str = Field(examples=["support-answers"])
    owner: str | None = None
    created_at: datetime
    version: VersionOut = Field(description="The newest version, or the one that was asked for.")
    versions: int = Field(description="How many versions there are.")
    runs: int = Field(0, description="How many runs learned from one of them.")


class DatasetDetailOut(DatasetOut):
    history: list[PastVersionOut] = Field(
        description="Every version, the newest first. What reading one found, `?version=` tells."
    )


class ColumnOut(Out):
    name: str = Field(examples=["output"])
    examples: list[str] = Field(description="Some of what stands in it, shortened.", examples=[["Blue."]])


class PartOut(Out):
    """A role that a column can play."""

    name: str = Field(examples=["output"])
    required: bool
    column: str | None = Field(None, description="The column that plays it by its name.")


class FormatOut(Out):
    """A shape that rows can have."""

    name: str = Field(examples=["alpaca"])
    title: str = Field(examples=["Alpaca"])
    kind: str = Field(examples=["messages"])
    parts: list[PartOut]


class ProbeOut(Out):
    """What the beginning of a file tells before it is sent."""

    file: str = Field(examples=["jsonl"], description="How records lie in it: jsonl, json, csv, tsv, txt, parquet.")
    is_whole: bool = Field(description="What came is the whole file.")
    columns: list[ColumnOut]
    formats: list[FormatOut] = Field(description="Every shape, with the roles that it has.")
    format: str | None = Field(description="The shape of the rows; null where none fits, or where none is to be seen.")
    mapping: dict[str, str] = Field(description="Role → column, under that shape.", examples=[{"output": "Answer"}])
    rows: list[Json] = Field(description="The first rows as they would be read.")
    looked_at: int = Field(description="Rows that were looked at.")
    bad: int = Field(description="How many of them cannot be used.")
    problems: list[ProblemOut] = Field(description="The first of those.")
    error: ErrorBody | None = Field(None, description="Why no shape fits; a choice of columns may be the way out.")


class UploadOut(Out):
    """An upload that has not come whole. HEAD and PATCH `/api/v1/uploads/{id}` go on with it."""

    id: UUID
    dataset: str = Field(examples=["alpaca"])
    filename: str = Field(examples=["alpaca.jsonl"])
    length: int = Field(description="Bytes of the whole file.")
    offset: int = Field(description="Bytes that have come.")
    begun_at: datetime
    modified: str | None = Field(None, description="When the file was changed last, as its sender said.")
    head: str | None = Field(None, description="A mark of the file's beginning, as its sender made it.")


class RowsOut(Out):
    """Normalised rows: `messages` or `text`, and `number`, the row's place in the source file."""

    rows: list[Json]
    total: int
    next: int | None = Field(None, description="The `offset` at which the next page begins; null at the end.")


class PieceOut(Out):
    """One token of a row. The texts of all pieces, joined, are what the model reads."""

    id: int
    text: str
    trained: bool = Field(description="The model learns to write it.")
    special: bool
    cut: bool = Field(description="It lies beyond the longest row.")
    role: str = Field(examples=["assistant"])


class PreviewRowOut(Out):
    """A row as the model would read it; `problem` alone where it cannot be read."""

    set: str
    number: int
    tokens: int = 0
    trained_tokens: int = 0
    over: bool = Field(False, description="Longer than the longest row.")
    endless: bool = Field(False, description="No end token is learned.")
    pieces: list[PieceOut] = Field([])
    control_text: list[str] = Field([], description="Control tokens that the row spells out; they are read as text.")
    problem: ProblemOut | None = None


class LengthsOut(Out):
    rows: int = Field(description="How many rows were measured.")
    histogram: list[tuple[int, int, int]] = Field(description="`[from, to, rows]` in tokens, `to` exclusive.")
    over: int


class PreviewOut(Out):
    template_source: str = Field(examples=["chatml"], description="Where the chat template comes from.")
    added_tokens: list[Json] = Field(examples=[[{"token": "<|im_end|>", "id": 512}]])
    stop_tokens: list[str]
    context_length: int | None = None
    max_length: int
    notes: list[str] = Field(description="What was decided to make the tokenizer ready.")
    rows: list[PreviewRowOut]
    lengths: LengthsOut


class CutOut(Out):
    """What a run would learn of a data set whose rows are cut at `max_length`, over one pass. Lengths are in tokens."""

    max_length: int = Field(examples=[512])
    truncation: Literal["refuse", "drop", "cut_end", "cut_start"]
    rows: int = Field(description="Rows that something is learned from.")
    over: int = Field(description="Rows longer than max_length.")
    cut: int
    dropped: int = Field(description="Rows left out: too long, or nothing to learn was left of them.")
    barren: int = Field(description="Rows left out because they hold nothing to learn.")
    tokens: int
    trained_tokens: int
    lost_tokens: int = Field(description="Tokens that would be learned were the rows whole.")
    ends_learned: int = Field(description="Rows in which the end of the last answer is learned.")
    ends_lost: int
    rows_in_all: int
    measured: int = Field(description="Rows that were measured; fewer than all in a very large data set.")
    refused: int = Field(description="Rows that the chat template refuses.")
    endless: int = Field(description="Rows with an answer that has no end token.")
    longest: int
    median: int
    context_length: int | None = None
    end_token: str = Field(examples=["<|im_end|>"])
    histogram: list[tuple[int, int, int]] = Field(description="(from, to, rows); `to` is exclusive.")


class FindingOut(Out):
    """One kind of thing that may be wrong with rows."""

    cleaner: str = Field(examples=["repeats"])
    fix: Literal["leave_out", "keep_one", "mask"] = Field(description="What mending does with these rows.")
    rows: int = Field(description="Rows that mending would change; 0 where nothing was found.")
    places: list[int] = Field(description="The first rows concerned, counted from 0.")
    examples: list[str]


class MendIn(BaseModel):
    """Which finding to mend, and in which version."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"cleaner": "repeats", "version": 1}]})

    cleaner: str = Field(max_length=40, description="The name of a kind of finding.")
    version: int | None = Field(None, ge=1, le=MOST, description="The version to begin from; the newest by default.")


class OperationOut(Out):
    """Background work on data. `done` of `total` bytes; `result` names what it made."""

    id: UUID
    kind: str = Field(examples=["ingest"])
    dataset: str = Field("", examples=["alpaca"], description="The data set that gets a version.")
    filename: str = Field("", examples=["alpaca.jsonl"])
    state: Literal["running", "succeeded", "failed", "cancelled"]
    done: int
    total: int | None = None
    result: Json | None = None
    error: ErrorBody | None = Field(None, description="Why it failed; while it is running, what it waits for.")
    created_at: datetime
    ended_at: datetime | None = None
