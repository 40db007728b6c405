"""What rendering hands to others: light to import, so that the web process may name it too."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from backend.core.errors import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int32]
    Flags = NDArray[np.bool_]

Truncation = Literal["refuse", "drop", "cut_end", "cut_start"]
IGNORE_INDEX = -100
"""The label that every loss of the Hugging Face family skips."""


@dataclass(frozen=True)
class AddedToken:
    """A special token that the vocabulary did not have before."""

    token: str
    id: int


@dataclass(frozen=True)
class Span:
    """A turn of the assistant in the rendered text, in characters: from its first to behind its end token.

    `ends` is false where no end token stands inside: a model that learns it would never stop.
    """

    start: int
    end: int
    train: bool
    ends: bool


@dataclass(frozen=True, eq=False)
class Encoded:
    """One row as the model reads it.

    All arrays have one entry a token. `starts` and `ends` are character offsets into `text`; tokens that share a
    character share its offsets. `trained` is never set on the first token, which nothing predicts.
    """

    number: int
    text: str
    input_ids: Ids
    trained: Flags
    starts: Ids
    ends: Ids
    spans: tuple[Span, ...] = ()
    control_text: tuple[str, ...] = ()
    """Control tokens that the data spelled out; they were read as plain text."""

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, eq=False)
class Example:
    """What one training row holds. `labels` is -100 where nothing is learned; position ids restart at each document."""

    input_ids: Ids
    labels: Ids
    position_ids: Ids | None = None


@dataclass(frozen=True)
class SetReport:
    """One data set's part in an epoch."""

    name: str
    version: int
    rows: int
    drawn: int
    tokens: int
    trained_tokens: int


@dataclass(frozen=True)
class Capped:
    """The first of many row names, with how many there are in all."""

    total: int = 0
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What the model would learn from, counted over one epoch. Lengths are in tokens before anything is cut."""

    rows: int
    train_rows: int
    eval_rows: int
    examples: int
    tokens: int
    trained_tokens: int
    eval_trained_tokens: int
    max_length: int
    longest: int
    histogram: tuple[tuple[int, int, int], ...]
    """`(from, to, rows)`, `to` exclusive."""
    over: Capped = Capped()
    cut: Capped = Capped()
    dropped: Capped = Capped()
    sets: tuple[SetReport, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"warnings": [each.as_json() for each in self.warnings]}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows to train and to measure on, in an order that depends on the data, the recipe and the seed alone."""

    train: list[Example]
    eval: list[Example]
    report: Report


@dataclass(frozen=True)
class Prepared:
    """A tokenizer that is ready for training, and every decision that made it so.

    Save `tokenizer` with the model: its folder alone then renders and encodes as here.
    """

    tokenizer: Any
    template_source: Literal["model", "chatml", "llama3", "zephyr", "plain", "none"]
    added_tokens: tuple[AddedToken, ...]
    model_vocab_size: int
    vocab_size: int
    """Rows that the embedding must have. Resize where it is above `model_vocab_size`; padded rows are used first."""
    context_length: int | None
    bos_token_id: int | None
    """Starts a plain text; none where the tokenizer writes none by itself."""
    document_end_id: int | None
    """Ends a plain text."""
    pad_token_id: int
    stop_token_ids: tuple[int, ...]
    """What `generation_config.eos_token_id` has to be: the end of a turn first."""
    notes: tuple[str, ...]
    chat: Any = field(repr=False, default=None)
    """The `Chat` that renders with the template; None without one."""
    reader: Any = field(repr=False, default=None)
    """The `Reader` that encodes."""

    @property
    def added_token_ids(self) -> tuple[int, ...]:
        return tuple(each.id for each in self.added_tokens)
