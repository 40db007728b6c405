"""The shapes of the API's answers. Pages draw the same objects, so a page never knows more than the API says."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, Any]
T = TypeVar("T")
Value = float | Literal["NaN", "Infinity", "-Infinity"]
"""A metric's value. JSON has no word for what is not finite, so that comes as text."""


class Out(BaseModel):
    """An answer. It is read from rows of the database and never changed."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Listing(Out, Generic[T]):
    """One page of a list. `next` is the cursor of the page after it: pass it as `before`; null at the end."""

    items: list[T]
    next: str | None = None


# ---- errors ---------------------------------------------------------------------------------------------------------


class ProblemOut(Out):
    """One thing that is wrong with what was sent."""

    code: str = Field(examples=["rows.no_answer"])
    message: str = Field(examples=["has no answer."])
    where: str | None = Field(None, examples=["row 41"], description="The place, as a person would look for it.")
    hint: str | None = Field(None, examples=["Map a column to the answer."])


class ErrorBody(ProblemOut):
    problems: list[ProblemOut] | None = Field(None, description="Everything that is wrong, at once.")
    incident: str | None = Field(None, description="With status 500: the name under which the log tells more.")


class ErrorOut(Out):
    """Every refusal and failure has this shape: what happened, where, and what to do next."""

    error: ErrorBody


# ---- people ---------------------------------------------------------------------------------------------------------

RoleName = Literal["viewer", "member", "admin"]


class PersonOut(Out):
    id: UUID
    name: str = Field(examples=["ada"])
    role: RoleName
    language: str | None = None
    created_at: datetime
    disabled_at: datetime | None = Field(None, description="Since when this person cannot sign in.")


class MemberOut(PersonOut):
    """A person as administrators see them."""

    seen_at: datetime | None = Field(None, description="Their last request, to the minute.")
    invited_until: datetime | None = Field(None, description="An open link to set a password holds until then.")
    is_program: bool = Field(False, description="The account of commands on the studio's own machine.")
    is_last_admin: bool = Field(False, description="Nobody else could let people in, so it cannot be taken away.")
    runs: int = Field(0, description="Runs that they started.")
    device_hours: float = Field(0.0, description="Hours that their runs held accelerators this month, in UTC.")
    sessions: int = Field(0, description="Browsers in which they are signed in.")
    tokens: int = Field(0, description="API tokens of theirs that hold.")


class InvitationOut(Out):
    """A link by which a person sets their password, once."""

    link: str = Field(examples=["/invitation?token=…"], description="Path and query. It cannot be shown again.")
    expires_at: datetime


class NewMemberOut(PersonOut):
    invitation: InvitationOut | None = Field(None, description="Where no password was given.")


class SessionOut(Out):
    """A browser that is signed in."""

    id: str
    browser: str = Field(examples=["Firefox 142"])
    system: str = Field(examples=["Linux"])
    user_agent: str
    is_this: bool = Field(description="The one that asks.")
    created_at: datetime
    seen_at: datetime | None = None
    expires_at: datetime


class AuditOut(Out):
    """Something that was done. `person` is null where they are gone."""

    id: UUID
    at: datetime
    person: str | None = Field(None, examples=["ada"])
    action: str = Field(examples=["token.create"])
    subject: str = Field(examples=["ada: ci"])
    data: Json


class TokenOut(Out):
    """An API token. The secret itself is shown once, when it is made."""

    id: UUID
    name: str = Field(examples=["ci"])
    owner: str = Field(examples=["ada"])
    role: RoleName
    prefix: str = Field(examples=["fts_Xk3v"])
    created_at: datetime
    expires_at: datetime | None = None
    used_at: datetime | None = None
    revoked_at: datetime | None = None


class NewTokenOut(TokenOut):
    token: str = Field(description="The secret. It is not stored and cannot be shown again.")


# ---- data -----------------------------------------------------------------------------------------------------------


class VersionOut(Out):
    """An immutable version of a data set. `facts` is what reading it found: columns, lengths, problems, duplicates."""

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
    facts: Json
    created_at: datetime


class DatasetOut(Out):
    id: UUID
    name: str = Field(examples=["support-answers"])
    owner: str | None = None
    created_at: datetime
    version: VersionOut = Field(description="The newest version.")
    versions: int = Field(description="How many versions there are.")
    runs: int = Field(0, description="How many runs learned from one of them.")


class DatasetDetailOut(DatasetOut):
    history: list[VersionOut] = Field(description="Every version, the newest first.")


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
    pieces: list[PieceOut] = []
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

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"cleaner": "repeats", "version": 1}]}
    )

    cleaner: str = Field(max_length=40, description="The name of a kind of finding.")
    version: int | None = Field(None, ge=1, description="The version to begin from; the newest by default.")


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
    error: ErrorBody | None = None
    created_at: datetime
    ended_at: datetime | None = None


class FitOut(Out):
    """About how much memory a method needs at the worst moment of a step, and whether an accelerator has it."""

    accelerator: str = Field(examples=["rtx-4090-24"], description="A device of a live worker, or a size in GiB.")
    memory_bytes: int
    method: str = Field(examples=["qlora"])
    verdict: Literal["fits", "tight", "too_big"] = Field(description="`tight`: less than a tenth would be left.")
    bytes: int
    parts: dict[str, int] = Field(examples=[{"weights": 5_400_000_000, "activations": 1_200_000_000}])
    most_rows: int = Field(description="How many rows fit at once, as a power of two up to 64; 0 where not even one.")


class BaseOut(Out):
    """A base model. `facts`: architecture, parameters, bytes, dtype, context length, vocabulary, template, licence."""

    path: str = Field(examples=["stories260k"])
    revision: str | None = None
    kind: Literal["base", "instruct"] = Field(
        "base", description="Whether it was taught to answer, as far as can be seen."
    )
    facts: Json
    problem: ProblemOut | None = Field(None, description="Why it cannot be used, if it cannot.")
    fits: list[FitOut] = Field([], description="By accelerator and method; empty where the model's shape is not known.")


class HubModelOut(Out):
    """A model on the hub, as it can be judged before anything is downloaded."""

    id: str = Field(examples=["Qwen/Qwen3-0.6B"])
    revision: str = Field(description="The commit that a download takes.")
    kind: Literal["base", "instruct"] = "base"
    parameters: int | None = None
    bytes: int | None = Field(None, description="What a download takes.")
    downloads: int = 0
    licence: str | None = None
    gated: bool = Field(False, description="Its terms must be accepted on the hub first.")
    address: str = Field(description="Its page on the hub.")
    facts: Json
    problem: ProblemOut | None = Field(None, description="Why it cannot be used, if it cannot.")
    fits: list[FitOut] = []


class RecipeVersionOut(Out):
    number: int
    body: Json
    created_at: datetime


class RecipeOut(Out):
    name: str
    owner: str | None = None
    created_at: datetime
    version: RecipeVersionOut = Field(description="The newest version.")
    versions: int


# ---- runs -----------------------------------------------------------------------------------------------------------

StateName = Literal["queued", "preparing", "training", "finishing", "paused", "stopped", "failed", "succeeded"]


class RunOut(Out):
    """A run as a list shows it, and as the stream of many runs tells it."""

    id: UUID
    name: str = Field(examples=["stories260k-qlora-1"])
    owner: str | None = None
    parent: str | None = Field(None, description="The run that this one is a clone of.")
    state: StateName
    intent: Literal["run", "pause", "stop", "keep"] = Field(description="What is wanted of it.")
    attempt: int = Field(description="How often a worker has taken it.")
    worker: str | None = Field(None, description="The worker that holds it now.")
    seq: int = Field(description="The number of its newest event.")
    step: int
    total_steps: int | None = None
    latest: Json = Field(description="The newest value of each metric.")
    progress: Json
    cause: ProblemOut | None = Field(None, description="Why it failed or waits.")
    model: str = Field(examples=["stories260k"])
    method: str = Field(examples=["qlora"])
    data: list[str] = Field(examples=[["support-answers 1"]])
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    discarded_at: datetime | None = None


class Choices(Out):
    """What lists of runs can be narrowed by."""

    models: list[str]
    datasets: list[str]
    people: list[str]


class HitOut(Out):
    """Something whose name holds the words that were searched for."""

    kind: Literal["run", "dataset", "model", "recipe"]
    name: str = Field(examples=["support-answers"])
    note: str | None = Field(None, examples=["training"], description="The state of a run.")
    address: str = Field(examples=["/datasets/support-answers"], description="Its page.")


class WaitOut(Out):
    """Why nothing moves: the host that is needed is not heard of.

    `host_gone`: the run's checkpoints lie on it; the run goes on when it returns, or starts over elsewhere.
    `cut_off`: it holds the run and may train on; it learns of what was asked when it returns.
    """

    reason: Literal["host_gone", "cut_off"]
    worker: str
    since: datetime = Field(description="When it was heard of last.")


class RunDetailOut(RunOut):
    """Everything about a run but its curves, samples and events."""

    recipe: Json = Field(description="The recipe, every setting written out.")
    facts: Json = Field(description="What the trainer found: parameters, quantised layers, tokens, device.")
    notes: list[ProblemOut]
    note: str = Field("", description="What people wrote beside it.", examples=["Rank 16, as agreed."])
    base: Json = Field(description="The base model as it was pinned.")
    sets: list[Json] = Field(description="The data-set versions as they were pinned.")
    waits_for: WaitOut | None = Field(None, description="The host that the run waits for, where it is not heard of.")
    actions: list[str] = Field(
        description="What can be done with it now.", examples=[["pause", "stop", "discard", "amend", "clone"]]
    )


class NeedOut(Out):
    """About how much memory and time the run takes on one kind of accelerator, by closed formulas."""

    title: str = Field(examples=["NVIDIA GeForce RTX 4090"])
    workers: list[str] = Field(description="The worker of each such accelerator.")
    memory_bytes: int
    needed_bytes: int
    parts: dict[str, int] = Field(description="Bytes for weights, gradients, optimizer, activations and overhead.")
    verdict: Literal["fits", "tight", "too_big"]
    seconds: float | None = Field(None, description="Null where nothing can be said honestly.")


class RemedyOut(Out):
    words: str = Field(examples=["Use 16"])
    settings: dict[str, str] = Field(examples=[{"method.r": "16"}], description="The settings that it changes.")


class AdviceOut(ProblemOut):
    """A warning. It stops nothing; a serious one will most likely end the run."""

    is_serious: bool
    remedies: list[RemedyOut]


class PreflightOut(Out):
    """What would happen if this recipe were launched now. With `problems` it would be refused."""

    recipe: Json = Field(description="The recipe, every setting written out.")
    problems: list[ProblemOut]
    notes: list[ProblemOut] = Field(description="Old names that were translated.")
    report: Json | None = Field(None, description="Rows, tokens, trained tokens, lengths.")
    steps: Json | None = Field(None, examples=[{"total": 240, "per_epoch": 120, "rows": 8}])
    facts: Json = Field(description="What the tokenizer was given: the template's source, added tokens.")
    needs: list[NeedOut] = Field(description="Memory and time on the accelerators that are here.")
    tokens_read: int | None = Field(None, description="Over the whole run.")
    tokens_learned: int | None = None
    disk_bytes: int | None = Field(None, description="Checkpoints, adapter and merged model.")
    advice: list[AdviceOut] = Field(description="What experience warns of.")


class EventOut(Out):
    """One event of a run's log. `kind` decides what `data` holds."""

    run: UUID
    seq: int
    at: datetime
    kind: str = Field(examples=["metrics"])
    step: int
    attempt: int
    data: Json


class ComparedOut(Out):
    """A run beside others. Figures are null until they are known."""

    run: RunOut
    short: str = Field(examples=["r16"], description="Its name without what all of them begin with.")
    recipe: Json = Field(description="Every setting, as changes in mid-run have left it.")
    eval_loss: float | None = Field(None, description="The lowest.")
    eval_loss_step: int | None = None
    steps_a_pass: float | None = None
    busy_seconds: float = Field(description="How long workers were at it; waits do not count.")
    step_seconds: float | None = None
    tokens_per_second: float | None = None
    peak_memory_gib: float | None = None
    device: str = ""
    adapter_bytes: int | None = None
    held_back_rows: int | None = None
    merged: str | None = Field(None, description="Where its merged model is downloaded.")


class ComparedSettingOut(Out):
    name: str = Field(examples=["method.r"])
    values: list[Any] = Field(description="By run, in the order that was asked for; null where a run does not have it.")
    differs: list[bool] = Field(description="Whether each run has it otherwise than the first.")


class VerdictOut(Out):
    """Which run is best so far. With `obstacles` that cannot be said: their losses do not measure the same."""

    best: str | None = None
    lead: float | None = Field(None, description="How far its evaluation loss is below the next one's.")
    obstacles: list[Literal["model", "data", "held_back", "learned", "length"]]
    measured: int = Field(description="How many of them have an evaluation loss.")


class ComparisonOut(Out):
    """Two to six runs beside each other. Curves are those of each run: GET /api/v1/runs/{run}/metrics."""

    runs: list[ComparedOut]
    verdict: VerdictOut
    settings: list[ComparedSettingOut]


class CurvesOut(Out):
    """Curves as `[step, value]`, thinned so that no extreme is lost."""

    curves: dict[str, list[tuple[int, Value]]] = Field(examples=[{"loss": [[1, 6.14], [2, 5.9]]}])
    times: list[tuple[int, float]] = Field(
        [], description="When these steps were measured, in seconds since the epoch; with `times` alone."
    )
    steps_a_pass: float | None = Field(None, description="How many steps are one pass over the data.")
    seq: int = Field(description="Follow the events after this number to go on.")


class SampleOut(Out):
    step: int
    index: int
    prompt: str
    text: str
    finish: str = Field(examples=["eos"])
    tokens: int


class AmendmentOut(Out):
    """A change in mid-run. `step` is the first step that it holds for; null until the trainer applied it."""

    sequence: int
    field: str = Field(examples=["training.learning_rate"])
    value: Any
    created_at: datetime
    step: int | None = None


class CheckpointOut(Out):
    """A checkpoint that the run can go on from."""

    step: int
    attempt: int
    bytes: int
    created_at: datetime


class AttemptOut(Out):
    """One claim of the run by a worker."""

    number: int
    worker: str = Field(examples=["gpu-box"])
    device: str = Field(examples=["cuda:0"])
    base_step: int = Field(description="The step that it went on from.")
    started_at: datetime
    ended_at: datetime | None = None
    cause: str | None = Field(
        None,
        examples=["paused"],
        description="Why it ended: the state that the run entered, or `lost` where its host fell silent.",
    )


class ArtifactOut(Out):
    """What a run gives away. `sha256` covers the list of files with their hashes; `facts` holds the proof."""

    id: UUID
    run: str = Field(description="The run's name.")
    kind: str = Field(examples=["merged"])
    step: int
    bytes: int
    sha256: str
    files: list[Json]
    facts: Json
    created_at: datetime
    download: str = Field(examples=["/api/v1/artifacts/0199…/download"])


class DeviceOut(Out):
    name: str = Field(examples=["cuda:0"])
    title: str
    memory_bytes: int
    run: str | None = Field(None, description="The run that holds it now.")
    held_gib: float | None = Field(None, description="What that run's trainer last said it holds, at its peak.")


class WorkerOut(Out):
    name: str
    place: str
    facts: Json
    devices: list[DeviceOut]
    runs: list[str] = Field(description="Names of the runs that it holds.")
    started_at: datetime
    seen_at: datetime
    drained_at: datetime | None = Field(None, description="Since when it takes no further run.")
    is_alive: bool = Field(description="Whether it was heard of lately.")


# ---- storage --------------------------------------------------------------------------------------------------------


class RunBytesOut(Out):
    id: UUID
    name: str | None = Field(None, description="Null where the run is gone.")
    owner: str | None = None
    state: StateName | None = None
    bytes: int


class WasteOut(Out):
    """What a clean-up deletes: nothing that a row names or an act can bring back."""

    uploads: int = Field(description="Uploads that nobody went on with for a day.")
    upload_bytes: int
    artifacts: int = Field(description="Artifacts that a later end of their run replaced.")
    artifact_bytes: int
    runs: int = Field(description="Discarded runs whose time to be brought back is over.")
    run_bytes: int
    total_bytes: int


class StorageOut(Out):
    """The disk under the home. It is measured now and then in the background; null figures are not known yet."""

    at: datetime | None = None
    is_measuring: bool
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    kinds: dict[str, int] = Field(default_factory=dict, examples=[{"models": 9663676416, "checkpoints": 1048576}])
    runs: list[RunBytesOut] = Field(default_factory=list, description="The largest runs.")
    waste: WasteOut | None = None
