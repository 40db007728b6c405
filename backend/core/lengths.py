"""How long the rows of a data set are under one model, and what every cut of them would cost.

The rows are measured once, in a limited process and with the trainer's own code (`rendering/measure.py`), and kept on
disk. What a cut costs is then a look-up: questions such as “how many learned tokens lie behind the 512th” are kept as
sorted values with running sums (`Steps`), so that any cut of any number of rows is answered in microseconds.
"""

from __future__ import annotations

import json
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backend.core import bases
from backend.core.errors import StudioError
from backend.core.kept import Kept
from backend.core.settings import Settings
from backend.core.storage import storage

if TYPE_CHECKING:
    from backend.core.models import DatasetVersion  # the limited processes that measure need no SQLAlchemy

Truncation = Literal["refuse", "drop", "cut_end", "cut_start"]
Tally = Mapping[int, int]
"""Value → how often, or how much in all."""

REVISION = 1
"""Of what is measured and how it is kept: a change makes files of before useless."""
MAX_ROWS = 1_000_000
"""A larger data set is measured by its first rows, and `Lengths.rows_in_all` says so."""
BARS = 32
TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")

REFUSED, ENDLESS, CONTROL = 1, 2, 4
"""Flags of a row: the template refuses it; an answer of it has no end token; it spells out a control token."""

BY_LENGTH = ("all", "useful", "barren", "learned", "ended")
BY_PLACE = ("first", "last", "starts", "stops", "starts_back", "stops_back", "ends")
TALLIES = (*BY_LENGTH, *BY_PLACE)
ARRAYS = (("tokens", "I"), ("trained", "I"), ("end_at", "I"), ("flags", "B"))


@dataclass(frozen=True)
class Lens:
    """Through what the rows are read: all that changes a token or whether it is learned."""

    model: str
    chat_template: str = "auto"
    assistant_only_loss: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a run would read and learn if rows were cut at `max_length`, over one pass and with nothing held back."""

    max_length: int
    truncation: Truncation
    rows: int
    """That something is learned from."""
    over: int
    """Rows longer than `max_length`."""
    cut: int
    dropped: int
    """Left out: too long, or nothing to learn was left of them."""
    barren: int
    """Left out because they hold nothing to learn."""
    tokens: int
    trained_tokens: int
    lost_tokens: int
    """Tokens that would be learned were the rows whole."""
    ends_learned: int
    """Rows in which the end of the last answer is learned."""
    ends_lost: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Steps:
    """Sorted values with running counts and sums: how many are above a limit, and by how much in all."""

    def __init__(self, tally: Tally) -> None:
        self.values = array("q", sorted(tally))
        self.counts = array("q", accumulate((tally[value] for value in self.values), initial=0))
        self.sums = array("q", accumulate((value * tally[value] for value in self.values), initial=0))

    @property
    def total(self) -> int:
        return self.counts[-1]

    def above(self, limit: int) -> int:
        """How many values are greater than `limit`."""
        return self.counts[-1] - self.counts[bisect_right(self.values, limit)]

    def excess(self, limit: int) -> int:
        """What the values have beyond `limit`, summed."""
        place = bisect_right(self.values, limit)
        return self.sums[-1] - self.sums[place] - limit * (self.counts[-1] - self.counts[place])

    def quantile(self, share: float) -> int:
        """The smallest value that at least this share of them do not exceed; 0 where there are none."""
        place = bisect_left(self.counts, share * self.counts[-1], lo=1) - 1
        return self.values[min(place, len(self.values) - 1)] if self.values else 0


@dataclass(frozen=True, eq=False)
class Lengths:
    """The measured rows. The arrays have one entry a row, in the order of the data set."""

    rows_in_all: int
    context_length: int | None
    end_token: str
    """What the model learns to stop with; empty where there is none."""
    template_source: str
    notes: tuple[str, ...]
    problems: tuple[dict[str, Any], ...]
    """Why the first rows that the template refuses are refused."""
    tallies: Mapping[str, Tally]
    tokens: array[int]
    trained: array[int]
    """Tokens that are learned, of the whole row."""
    end_at: array[int]
    """The place of the token that ends the last learned answer: a row that is cut there or before loses its end."""
    flags: array[int]

    @property
    def rows(self) -> int:
        """Rows that were measured."""
        return len(self.tokens)

    @cached_property
    def steps(self) -> Mapping[str, Steps]:
        return {name: Steps(self.tallies[name]) for name in TALLIES}

    @cached_property
    def refused(self) -> int:
        return sum(1 for flag in self.flags if flag & REFUSED)

    @cached_property
    def endless(self) -> int:
        return sum(1 for flag in self.flags if flag & ENDLESS)

    @property
    def longest(self) -> int:
        values = self.steps["all"].values
        return values[-1] if values else 0

    def quantile(self, share: float) -> int:
        """The length that this share of the rows do not exceed."""
        return self.steps["all"].quantile(share)

    def limit(self, max_length: int) -> int:
        """The longest row that is read whole: never more than the model can read."""
        return min(max_length, self.context_length or max_length)

    def at(self, max_length: int, truncation: Truncation) -> Outcome:
        """What rows cut at `max_length` teach. `refuse` is told as if nothing were cut, since such a run does not start."""
        limit, steps = self.limit(max_length), self.steps
        over, barren_over = steps["all"].above(limit), steps["barren"].above(limit)
        useful, barren, learned, ends = (steps[each].total for each in ("useful", "barren", "learned", "ends"))
        tokens = steps["useful"].sums[-1]
        match truncation:
            case "refuse":
                rows, cut, dropped, lost, ends_lost = useful, 0, 0, 0, 0
            case "drop":
                gone = steps["useful"].above(limit)
                rows, cut, dropped, barren = useful - gone, 0, over, barren - barren_over
                tokens -= steps["useful"].excess(limit) + limit * gone
                lost, ends_lost = steps["learned"].above(limit), steps["ended"].above(limit)
            case "cut_end" | "cut_start":
                gone, lost, ends_lost = self._cut(limit, truncation)
                rows, cut, dropped, barren = useful - gone, over, gone + barren_over, barren - barren_over
                tokens -= steps["useful"].excess(limit) + limit * gone
        learned, ends = learned - lost, ends - ends_lost
        return Outcome(limit, truncation, rows, over, cut, dropped, barren, tokens, learned, lost, ends, ends_lost)

    def _cut(self, limit: int, truncation: Truncation) -> tuple[int, int, int]:
        """Rows of which nothing to learn is left, learned tokens that are lost, and ends that are."""
        steps = self.steps
        if truncation == "cut_end":
            lost = steps["stops"].excess(limit) - steps["starts"].excess(limit)
            return steps["first"].above(limit - 1), lost, steps["ends"].above(limit - 1)
        # Counted from the end of a row. Its first token is never learned, whatever was cut before it.
        kept = limit - 1
        lost = steps["stops_back"].excess(kept) - steps["starts_back"].excess(kept)
        gone = steps["last"].above(kept - 1)
        return gone, lost, gone

    @cached_property
    def barren(self) -> list[int]:
        """The places of the rows that hold nothing to learn, from 0."""
        return [place for place, learned in enumerate(self.trained) if not learned and not self.flags[place] & REFUSED]

    def flagged(self, flags: int) -> list[int]:
        """The places of the rows that have one of these flags, from 0."""
        return [place for place, own in enumerate(self.flags) if own & flags]

    def longer(self, max_length: int) -> Iterator[int]:
        """The places of the rows that are longer, from 0."""
        limit = self.limit(max_length)
        return (place for place, length in enumerate(self.tokens) if length > limit)

    def next_longer(self, max_length: int, behind: int) -> int | None:
        """The place of the next row behind `behind` that is longer; the first of all where there is none."""
        limit = self.limit(max_length)
        order = (*range(behind + 1, self.rows), *range(min(behind + 1, self.rows)))
        return next((place for place in order if self.tokens[place] > limit), None)

    def histogram(self, bars: int = BARS) -> list[tuple[int, int, int]]:
        """`(from, to, rows)` in equal widths, a power of two each; `to` is exclusive. A few very long rows do not press
        all others into one bar: the last bar then holds whatever is longer."""
        steps = self.steps["all"]
        if not steps.values:
            return []
        top = self.longest if self.longest <= 2 * self.quantile(0.99) else self.quantile(0.99) * 5 // 4
        width = 1
        while width * bars <= top:
            width *= 2
        counts = [0] * (top // width + 1)
        for value, rows in self.tallies["all"].items():
            counts[min(value // width, len(counts) - 1)] += rows
        return [(n * width, (n + 1) * width, rows) for n, rows in enumerate(counts)]


# ---- measured once, kept on disk ------------------------------------------------------------------------------------


def known(settings: Settings, version: DatasetVersion, lens: Lens) -> Lengths | None:
    """The lengths where they have been measured. Looks at the disk alone."""
    folder = _folder(settings, lens.model)
    return KEPT.load(_path(settings, version.sha256, folder, lens)) if folder else None


def measure(
    settings: Settings,
    version: DatasetVersion,
    lens: Lens,
    *,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Lengths:
    """The lengths, measured where they are not known. Blocks; progress is `{"done", "of"}` in rows.

    Raises `StudioError` where the model, its tokenizer or its template cannot be used.
    """
    folder = bases.find_here(lens.model, None, settings).folder
    order = {
        "file": str(storage(settings).fetch(version.key)),
        "model_folder": str(folder),
        "chat_template": lens.chat_template,
        "assistant_only_loss": lens.assistant_only_loss,
    }
    path = _path(settings, version.sha256, folder, lens)
    return KEPT.find(path, order, on_progress=on_progress, cancelled=cancelled)


def address(settings: Settings, version: DatasetVersion, lens: Lens) -> str:
    """Names what is measured: changes when the rows, the tokenizer's files or the lens do. Empty for an unknown model."""
    folder = _folder(settings, lens.model)
    return _path(settings, version.sha256, folder, lens).name if folder else ""


def _folder(settings: Settings, model: str) -> Path | None:
    try:
        return bases.here(model, None, settings)
    except StudioError:
        return None


def _path(settings: Settings, sha256: str, folder: Path, lens: Lens) -> Path:
    files = sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})
    signature = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return KEPT.path(settings, REVISION, sha256, str(folder), signature, lens.chat_template, lens.assistant_only_loss)


def save(lengths: Lengths, path: Path) -> None:
    """Write them as one compressed file: a line of JSON, then the arrays."""
    plain = ("rows_in_all", "context_length", "end_token", "template_source", "notes", "problems")
    head = {name: getattr(lengths, name) for name in plain} | {"rows": lengths.rows}
    head["tallies"] = {name: list(tally.items()) for name, tally in lengths.tallies.items()}
    arrays = b"".join(getattr(lengths, name).tobytes() for name, _ in ARRAYS)
    path.write_bytes(zlib.compress(json.dumps(head).encode() + b"\n" + arrays, level=6))


def _read(content: bytes) -> Lengths:
    """Raises `ValueError` and its like for what is damaged."""
    line, _, rest = content.partition(b"\n")
    head = json.loads(line)
    rows, start = head.pop("rows"), 0
    arrays: dict[str, Any] = {}
    for name, code in ARRAYS:
        arrays[name] = array(code)
        end = start + rows * arrays[name].itemsize
        arrays[name].frombytes(rest[start:end])
        start = end
    if start != len(rest) or set(head["tallies"]) != set(TALLIES):
        raise ValueError("of another form")
    head["tallies"] = {name: {int(value): int(n) for value, n in pairs} for name, pairs in head["tallies"].items()}
    return Lengths(**{**head, "notes": tuple(head["notes"]), "problems": tuple(head["problems"])}, **arrays)


KEPT = Kept(
    "lengths",
    "backend.core.rendering.measure:measure_here",
    _read,
    most_bytes=32 << 20,  # a million rows take 13 MiB
    room_bytes=1 << 30,
    timeout_seconds=3600,
)
