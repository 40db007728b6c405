"""From data files to the rows that a trainer takes, with every refusal told before any accelerator time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, NoReturn

from backend.core.assignment import DataFile
from backend.core.datasets.groups import groups, records
from backend.core.datasets.schema import COLUMNS, Row, from_record
from backend.core.errors import Invalid, Problem
from backend.core.recipe import Data, Recipe, resolve
from backend.core.rendering.masks import cut, encode_prompt, encode_rows
from backend.core.rendering.mixture import draw, hold_back, lot
from backend.core.rendering.packing import best_fit, join
from backend.core.rendering.refusals import TooLong
from backend.core.rendering.types import (
    IGNORE_INDEX,
    Capped,
    Dataset,
    Encoded,
    Example,
    Prepared,
    Report,
    SetReport,
)

if TYPE_CHECKING:
    from backend.core.rendering.types import Flags, Ids

BATCH_ROWS = 512
TOLD_ROWS = 20
"""How many rows are named where many have the same problem."""
BARS = 24


Progress = Callable[[int, int], None]
"""Told the rows done and the rows in all."""


def prepare(
    files: Sequence[DataFile],
    prepared: Prepared,
    recipe: Recipe,
    *,
    seed: int,
    on_progress: Progress | None = None,
) -> Dataset:
    """The rows of one epoch, encoded, masked, cut where the recipe says so, packed where it asks for it.

    The same files, recipe and seed give the same rows in the same order, in any process. Raises `Invalid` with every
    problem at once, each by its row: rows that the template refuses, answers whose end would not be learned, rows too
    long without consent to cut them, nothing left to learn.
    """
    data = resolve(recipe, train_rows=0, context_length=prepared.context_length).data
    pool = _read(files, prepared, data, seed, on_progress or (lambda _done, _total: None))
    _refuse(pool, data, prepared, _prompts(recipe, prepared))
    by_set, measured = _divide(pool, len(files), recipe.evaluation.eval_share)
    drawn = draw([len(rows) for rows in by_set], [file.weight for file in files], seed)
    train = [by_set[number][row] for number, row in drawn]
    examples = _examples(train, data)
    report = _report(pool, train, measured, data, recipe)
    sets = tuple(_of_set(number, file, by_set[number], train) for number, file in enumerate(files))
    report = replace(report, examples=len(examples), sets=sets, notes=prepared.notes)
    return Dataset(train=examples, eval=_examples(measured, data), report=report)


def has_conversations(files: Sequence[DataFile]) -> bool:
    """Whether any row is a conversation rather than a plain text; for `load_tokenizer`."""
    from pyarrow import parquet

    for file in files:
        with parquet.ParquetFile(file.path) as stored:
            for group in groups(stored):
                if stored.read_row_group(group.index, ["text"]).column("text").null_count:
                    return True
    return False


def count_rows(file: DataFile) -> int:
    """How many rows a data-set version has."""
    from pyarrow import parquet

    with parquet.ParquetFile(file.path) as stored:
        return int(stored.metadata.num_rows)


def rows_of(file: DataFile, skip: int = 0) -> Iterator[Row]:
    """The rows of one data-set version behind the first `skip`, in the order of their numbers."""
    from pyarrow import parquet

    with parquet.ParquetFile(file.path) as stored:
        for group in groups(stored):
            if skip < group.start + group.count:
                wanted = stored.read_row_group(group.index, COLUMNS).slice(max(0, skip - group.start))
                yield from map(from_record, records(wanted))


def histogram(lengths: Sequence[int], bars: int = BARS) -> tuple[tuple[int, int, int], ...]:
    """`(from, to, rows)` over equal widths, a power of two each, in at most `bars` bars; `to` is exclusive."""
    if not lengths:
        return ()
    width = 1
    while width * bars <= max(lengths):
        width *= 2
    counts = [0] * (max(lengths) // width + 1)
    for length in lengths:
        counts[length // width] += 1
    return tuple((n * width, (n + 1) * width, count) for n, count in enumerate(counts))


@dataclass(frozen=True, eq=False)
class _Row:
    """One encoded row, as little of it as is needed later, and what is to be said of it."""

    set: int
    where: str
    lot: float
    ids: Ids
    trained: Flags
    trained_tokens: int
    whole_length: int
    """In tokens, before anything was cut."""
    whole_trained_tokens: int
    over: bool
    cut: bool
    loses_end: bool
    """The cut took the end of the last answer."""
    endless: bool
    """No end token stands in an answer."""
    spells_control: bool
    dropped: bool
    """Too long, or nothing to learn is left of it."""

    @property
    def used(self) -> bool:
        return self.trained_tokens > 0 and not self.dropped

    @property
    def barren(self) -> bool:
        return self.trained_tokens == 0 and not self.dropped


@dataclass
class _Pool:
    """All rows of all sets."""

    rows: list[_Row] = field(default_factory=list)
    refused: list[Problem] = field(default_factory=list)

    @property
    def read(self) -> int:
        return len(self.rows) + len(self.refused)

    def names(self, which: Callable[[_Row], bool]) -> list[str]:
        return [row.where for row in self.rows if which(row)]


def _read(files: Sequence[DataFile], prepared: Prepared, data: Data, seed: int, on_progress: Progress) -> _Pool:
    """Encode every row of every set, a batch at a time."""
    pool, total = _Pool(), sum(map(count_rows, files))
    for number, file in enumerate(files):
        prefix = f"{file.name}, " if len(files) > 1 else ""
        for batch in _batches(rows_of(file)):
            encoded = encode_rows(batch, prepared, assistant_only_loss=data.assistant_only_loss)
            for row, each in zip(batch, encoded, strict=True):
                if isinstance(each, Problem):
                    pool.refused.append(replace(each, where=prefix + each.where))
                else:
                    pool.rows.append(
                        _shorten(each, number, f"{prefix}row {row.number}", lot(row, seed), prepared, data)
                    )
            on_progress(pool.read, total)
    return pool


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def _shorten(whole: Encoded, number: int, where: str, chance: float, prepared: Prepared, data: Data) -> _Row:
    """The row after `truncation` had its way."""
    import numpy as np

    limit = row_limit(data, prepared)
    kept = cut(whole, prepared, limit, data.truncation)
    over, is_cut = len(whole) > limit, len(kept) < len(whole)
    learned = np.flatnonzero(whole.trained)
    trained_tokens = int(kept.trained.sum())
    return _Row(
        set=number,
        where=where,
        lot=chance,
        ids=kept.input_ids,
        trained=kept.trained,
        trained_tokens=trained_tokens,
        whole_length=len(whole),
        whole_trained_tokens=len(learned),
        over=over,
        cut=is_cut,
        loses_end=is_cut and len(learned) > 0 and bool(kept.ends[-1] < whole.ends[learned[-1]]),
        endless=any(span.train and not span.ends for span in whole.spans),
        spells_control=bool(whole.control_text),
        dropped=(over and data.truncation == "drop") or (is_cut and trained_tokens == 0),
    )


def row_limit(data: Data, prepared: Prepared) -> int:
    """Longest row in tokens: `max_length`, and never more than the model can read. Packed rows may be longer in all."""
    longest = 2048 if data.max_length == "auto" else data.max_length
    return min(longest, prepared.context_length or longest)


def _prompts(recipe: Recipe, prepared: Prepared) -> list[Problem]:
    """The prompts that leave the model no room to answer."""
    problems, context = [], prepared.context_length
    for number, prompt in enumerate(recipe.evaluation.prompts):
        length = len(encode_prompt(prompt, prepared))
        if context is not None and length >= context:
            words = f"is {length:,} tokens long, and the model's context is {context:,}."
            problems.append(Problem("prompts.too_long", words, f"evaluation.prompts.{number}", "Shorten it."))
    return problems


def _refuse(pool: _Pool, data: Data, prepared: Prepared, others: Sequence[Problem]) -> None:
    """Raise everything that is wrong with the rows, and what `others` are, at once."""
    problems = [*others, *pool.refused[:TOLD_ROWS]]
    if len(pool.refused) > TOLD_ROWS:
        problems.append(Problem("rows.more", f"and {len(pool.refused) - TOLD_ROWS:,} more rows that cannot be used."))
    if endless := pool.names(lambda row: row.endless):
        problems.append(_endless(endless))
    over = [row for row in pool.rows if row.over]
    if over and data.truncation == "refuse":
        problems.append(_too_long(over, pool, row_limit(data, prepared), prepared))
    if problems:
        raise Invalid("This cannot be trained as it is.", code="rows", problems=tuple(problems))


def _endless(rows: Sequence[str]) -> Problem:
    words = f"In {_count(rows)} the end token of an answer would be masked: the model would never learn to stop."
    hint = "Choose a chat template that writes an end token as part of the answer, such as chatml."
    return Problem("rows.end_masked", words, _named(rows), hint)


def _too_long(over: Sequence[_Row], pool: _Pool, limit: int, prepared: Prepared) -> Problem:
    learned = sum(row.whole_trained_tokens for row in pool.rows) or 1
    found = TooLong(
        rows=len(over),
        of=len(pool.rows),
        limit=limit,
        longest=max(row.whole_length for row in over),
        context_length=prepared.context_length,
        dropped=sum(row.whole_trained_tokens for row in over) / learned,
        behind=sum(int(row.trained[limit:].sum()) for row in over) / learned,
        before=sum(int(row.trained[: row.whole_length - limit].sum()) for row in over) / learned,
    )
    return found.problem(_named([row.where for row in over]))


def _refuse_nothing(pool: _Pool) -> NoReturn:
    if not pool.read:
        raise Invalid("There are no rows to train on.", code="rows.none", where="data.sets")
    words = f"Nothing would be trained: none of the {pool.read:,} rows holds a token to learn."
    hint = "Map a column to the assistant's answer, mark a turn for training, or allow longer rows."
    named = _named(pool.names(lambda row: not row.used))
    problem = Problem("rows.nothing_trained", words, named, hint)
    raise Invalid(words, hint=hint, code="rows.nothing_trained", problems=(problem,))


def _divide(pool: _Pool, sets: int, share: float) -> tuple[list[list[_Row]], list[_Row]]:
    """The rows to train on, by set, and those held back. Raises `Invalid` where no row has anything to learn."""
    usable = [row for row in pool.rows if row.used]
    if not usable:
        _refuse_nothing(pool)
    by_set: list[list[_Row]] = [[] for _ in range(sets)]
    measured: list[_Row] = []
    for row, held in zip(usable, hold_back([row.lot for row in usable], share), strict=True):
        (measured if held else by_set[row.set]).append(row)
    return by_set, measured


def _examples(rows: Sequence[_Row], data: Data) -> list[Example]:
    import numpy as np

    single = [Example(row.ids, np.where(row.trained, row.ids, IGNORE_INDEX).astype(np.int32)) for row in rows]
    if not data.packing:
        return single
    shared = best_fit([len(row.ids) for row in rows], int(data.max_length))
    return [join([single[number] for number in documents]) for documents in shared]


def _report(pool: _Pool, train: Sequence[_Row], measured: Sequence[_Row], data: Data, recipe: Recipe) -> Report:
    lengths = [row.whole_length for row in pool.rows]
    return Report(
        rows=pool.read,
        train_rows=len(train),
        eval_rows=len(measured),
        examples=len(train),
        tokens=sum(len(row.ids) for row in train),
        trained_tokens=sum(row.trained_tokens for row in train),
        eval_trained_tokens=sum(row.trained_tokens for row in measured),
        max_length=int(data.max_length),
        longest=max(lengths),
        histogram=histogram(lengths),
        over=_capped(pool.names(lambda row: row.over)),
        cut=_capped(pool.names(lambda row: row.cut)),
        dropped=_capped(pool.names(lambda row: row.dropped)),
        warnings=_warnings(pool, recipe, measured),
    )


def _of_set(number: int, file: DataFile, rows: Sequence[_Row], train: Sequence[_Row]) -> SetReport:
    drawn = [row for row in train if row.set == number]
    return SetReport(
        name=file.name,
        version=file.version,
        rows=len(rows),
        drawn=len(drawn),
        tokens=sum(len(row.ids) for row in drawn),
        trained_tokens=sum(row.trained_tokens for row in drawn),
    )


def _warnings(pool: _Pool, recipe: Recipe, measured: Sequence[_Row]) -> tuple[Problem, ...]:
    found = []
    if barren := pool.names(lambda row: row.barren):
        words = f"{_count(barren)} with nothing to learn left out."
        found.append(Problem("rows.barren", words, _named(barren)))
    if spelled := pool.names(lambda row: row.spells_control):
        words = f"{_count(spelled)} with special tokens spelled out, which are read as plain text."
        found.append(Problem("rows.control_text", words, _named(spelled)))
    if endless := pool.names(lambda row: row.loses_end and row.used):
        words = f"{_count(endless)} cut before the end of the last answer, which do not teach to stop."
        found.append(Problem("rows.end_cut", words, _named(endless)))
    if recipe.evaluation.eval_share and not measured:
        words = f"No row was held back to measure on: {recipe.evaluation.eval_share:.0%} of these rows came to none."
        found.append(Problem("rows.no_evaluation", words, "evaluation.eval_share", "Raise the share."))
    return tuple(found)


def _count(rows: Sequence[str]) -> str:
    return "1 row" if len(rows) == 1 else f"{len(rows):,} rows"


def _named(rows: Sequence[str]) -> str:
    """`row 3, row 8 and 40 more`."""
    more = f" and {len(rows) - TOLD_ROWS:,} more" if len(rows) > TOLD_ROWS else ""
    return ", ".join(rows[:TOLD_ROWS]) + more


def _capped(rows: Sequence[str]) -> Capped:
    return Capped(len(rows), tuple(rows[:TOLD_ROWS]))
