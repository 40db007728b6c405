"""The rows on the page of a data set: which of them, through which lens, and where the cut falls.

Tokens are marked in limited processes and remembered here, so that paging, moving the cut and changing the view cost nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.core import bases, lengths
from backend.core.datasets import picking
from backend.core.datasets.picking import Picked
from backend.core.datasets.schema import Row
from backend.core.errors import StudioError
from backend.core.lengths import CONTROL, ENDLESS, REFUSED, Lengths, Lens
from backend.core.limited import run_limited
from backend.core.models import DatasetVersion, Json
from backend.core.quality import Finding
from backend.core.settings import Settings
from backend.core.storage import storage
from backend.web.failures import problem_out
from backend.web.inking import Cut, InkedRow, Rule, ink
from backend.web.looking import Look
from backend.web.shapes.common import ProblemOut

if TYPE_CHECKING:
    from backend.web.deps import Edge

MARK = "backend.core.rendering.marking:mark"
MARK_SECONDS = 60
ROWS_SHOWN = 5
REMEMBERED_TOKENS, REMEMBERED_SEARCHES, ROW_WEIGHT = 400_000, 50, 40
ROW_CHARACTERS, TURN_CHARACTERS = 100_000, 100
"""Of one row as it is stored, about so much is shown; a turn counts for its frame too. What follows is counted."""
FLAGS = {"refused": REFUSED, "endless": ENDLESS, "control": CONTROL}


class Marks:
    """Marked rows of late, so that paging, moving the cut and changing the view cost nothing. The texts of tokens are few
    and shared. Several threads use it."""

    def __init__(self) -> None:
        self._rows: OrderedDict[tuple[Any, ...], Json] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...]) -> Json | None:
        with self._lock:
            found = self._rows.get(key)
            if found is not None:
                self._rows.move_to_end(key)
            return found

    def put(self, key: tuple[Any, ...], row: Json) -> None:
        row["texts"] = [sys.intern(text) for text in row.get("texts", [])]
        with self._lock:
            before = self._rows.pop(key, None)
            self._weight += _weight(row) - (_weight(before) if before else 0)
            self._rows[key] = row
            while self._weight > REMEMBERED_TOKENS and len(self._rows) > ROWS_SHOWN:
                self._weight -= _weight(self._rows.popitem(last=False)[1])


def _weight(row: Json) -> int:
    """In tokens. A row that was refused has none, and takes room too."""
    return ROW_WEIGHT + len(row["texts"])


marks = Marks()


def known_marks(settings: Settings, version: DatasetVersion, lens: Lens, places: Sequence[int]) -> list[Json] | None:
    """The marked rows, where all of them are remembered."""
    found = [marks.get(_key(settings, version, lens, place)) for place in places]
    return [row for row in found if row is not None] if all(row is not None for row in found) else None


def mark(
    settings: Settings,
    version: DatasetVersion,
    lens: Lens,
    places: Sequence[int],
    cancelled: Callable[[], bool] | None = None,
) -> list[Json]:
    """The rows at these places with every token marked. Blocks. Raises `StudioError`."""
    known = {place: marks.get(_key(settings, version, lens, place)) for place in places}
    missing = [place for place, row in known.items() if row is None]
    if missing:
        payload = {
            "file": str(storage(settings).fetch(version.key)),
            "model_folder": str(bases.find_here(lens.model, None, settings).folder),
            "chat_template": lens.chat_template,
            "assistant_only_loss": lens.assistant_only_loss,
            "places": missing,
        }
        for row in run_limited(MARK, payload, timeout_seconds=MARK_SECONDS, cancelled=cancelled)["rows"]:
            marks.put(_key(settings, version, lens, row["place"]), row)
            known[row["place"]] = row  # of what is remembered others may be putting it out already
    return [row for place in places if (row := known[place]) is not None]


def _key(settings: Settings, version: DatasetVersion, lens: Lens, place: int) -> tuple[Any, ...]:
    return lengths.address(settings, version, lens), version.sha256, lens, place


@dataclass(frozen=True)
class Selection:
    """Which rows there are to go through: all of them, or those at `places`."""

    total: int
    places: Sequence[int] | None = None

    @property
    def count(self) -> int:
        return self.total if self.places is None else len(self.places)

    def page(self, place: int) -> list[int]:
        """The rows to show from `place` on."""
        if self.places is None:
            return list(range(place, min(place + ROWS_SHOWN, self.total)))
        first = bisect_left(self.places, place)
        return list(self.places[first : first + ROWS_SHOWN]) or list(self.places[-ROWS_SHOWN:])

    def before(self, place: int) -> int | None:
        """Where the page before begins."""
        if self.places is None:
            return max(0, place - ROWS_SHOWN) if place else None
        first = bisect_left(self.places, place)
        return self.places[max(0, first - ROWS_SHOWN)] if first else None

    def behind(self, shown: Sequence[int]) -> int | None:
        """Where the page after these begins."""
        if not shown:
            return None
        if self.places is None:
            return shown[-1] + 1 if shown[-1] + 1 < self.total else None
        after = bisect_left(self.places, shown[-1] + 1)
        return self.places[after] if after < len(self.places) else None


def select_rows(
    settings: Settings, version: DatasetVersion, look: Look, whole: Lengths | None, findings: list[Finding] | None
) -> Selection:
    """The rows that the look asks for. Blocks: words are searched for in every row."""
    places = filtered(look, whole, findings)
    if look.q:
        found = _searched(storage(settings).fetch(version.key), look.q.casefold())
        places = found if places is None else sorted({*places} & {*found})
    return Selection(version.rows, places)


def filtered(look: Look, whole: Lengths | None, findings: list[Finding] | None) -> Sequence[int] | None:
    """The places of the rows of one kind; None for all rows, also while nothing is known of that kind yet."""
    if look.which == "cut":
        return list(whole.longer(look.cut_at(whole.context_length))) if whole else None
    if look.which in FLAGS:
        return whole.flagged(FLAGS[look.which]) if whole else None
    if look.which == "barren":
        return whole.barren if whole else None
    if look.which == "problems":
        found = {place for each in findings or [] for place in each.involved}
        found |= set(whole.flagged(REFUSED | ENDLESS)) | set(whole.barren) if whole else set()
        return sorted(found) if findings is not None else None
    return next((each.involved for each in findings or [] if each.name == look.which), None)


@lru_cache(maxsize=REMEMBERED_SEARCHES)
def _searched(path: Path, words: str) -> list[int]:
    """A version's file never changes."""
    return picking.search(path, words)


@dataclass(frozen=True)
class Panel:
    """The rows that are shown. `inked` where their tokens are wanted and known; `is_waiting` where they are still asked."""

    first: int
    """The number of the first row."""
    count: int
    """Rows there are to go through."""
    total: int
    picked: list[Picked] = field(default_factory=list)
    """The beginning of very long rows alone."""
    beyond: dict[int, int] = field(default_factory=dict)
    """How many characters of such a row are not shown, by place."""
    records: dict[int, str] = field(default_factory=dict)
    """The records of these rows as they stood in their file, by place."""
    inked: list[InkedRow] = field(default_factory=list)
    rules: dict[int, Rule] = field(default_factory=dict)
    badges: dict[int, list[str]] = field(default_factory=dict)
    before: int | None = None
    behind: int | None = None
    next_cut: int | None = None
    """Numbers of rows: where the pages before and behind begin, and where the next row stands that is cut."""
    cut: Cut | None = None
    is_waiting: bool = False
    error: ProblemOut | None = None
    problems: list[ProblemOut] = field(default_factory=list)


def panel(
    settings: Settings,
    version: DatasetVersion,
    look: Look,
    whole: Lengths | None,
    findings: list[Finding] | None,
    *,
    wait: bool,
) -> Panel:
    """Blocks; without `wait` for nothing that takes long but a search."""
    path = storage(settings).fetch(version.key)
    selection = select_rows(settings, version, look, whole, findings)
    shown = selection.page(picking.place_of(path, look.row)) if selection.count else []
    picked, beyond = shortened(picking.pick(path, shown))
    context = whole.context_length if whole else bases_context(settings, look.model)
    cut = Cut(min(look.cut_at(context), context or look.cut_at(context)), look.truncation)
    numbers = _Numbers(path)
    place = shown[0] if shown else 0
    found = Panel(
        first=picked[0].row.number if picked else look.row,
        count=selection.count,
        total=version.rows,
        picked=picked,
        beyond=beyond,
        records={each.place: pretty(each.raw) for each in picked if each.raw and look.view == "raw"},
        badges=badges(shown, findings),
        before=numbers(selection.before(place)),
        behind=numbers(selection.behind(shown)),
        next_cut=numbers(whole.next_longer(cut.limit, place) if whole else None),
        cut=cut,
    )
    return _with_ink(found, settings, version, look, shown, whole, wait=wait)


def _with_ink(
    found: Panel,
    settings: Settings,
    version: DatasetVersion,
    look: Look,
    shown: list[int],
    whole: Lengths | None,
    *,
    wait: bool,
) -> Panel:
    lens = look.lens
    if lens is None or not look.needs_tokens or not shown:
        return found
    try:
        rows = mark(settings, version, lens, shown) if wait else known_marks(settings, version, lens, shown)
    except StudioError as refusal:
        problems = [ProblemOut.model_validate(each) for each in refusal.problems]
        return replace(found, error=problem_out(refusal), problems=problems)
    if rows is None:
        return replace(found, is_waiting=True)
    assert found.cut is not None
    inked = ink(rows, found.cut, opened=look.open, whole=look.view == "tokens")
    longest = max([whole.quantile(0.99) if whole else 0, *(row.tokens for row in inked)])
    return replace(found, inked=inked, rules={row.place: Rule.of(row, found.cut, longest) for row in inked})


def shortened(picked: Sequence[Picked]) -> tuple[list[Picked], dict[int, int]]:
    """The rows as a page shows them, and how many characters of each are left out, where any are."""
    shown = [(each, *_beginning(each.row)) for each in picked]
    return [replace(each, row=row) for each, row, _ in shown], {each.place: left for each, _, left in shown if left}


def _beginning(row: Row) -> tuple[Row, int]:
    """About `ROW_CHARACTERS` of a row, whole turns as far as they go, and how many characters are left out."""
    room, left_out, turns = ROW_CHARACTERS, 0, []

    def kept(text: str) -> str:
        nonlocal room, left_out
        shown = text[:room]
        room -= len(shown)
        left_out += len(text) - len(shown)
        return shown

    for turn in row.messages:
        content, calls = kept(turn.content), kept(turn.tool_calls or "")
        if content or calls or room:
            turns.append(replace(turn, content=content, tool_calls=calls or None, name=turn.name and kept(turn.name)))
            room = max(0, room - TURN_CHARACTERS)
    text, tools = kept(row.text or ""), kept(row.tools or "")
    return replace(row, messages=tuple(turns), text=row.text and text, tools=tools or None), left_out


def pretty(raw: str) -> str:
    """A record over several lines; one that was cut off stays as it is."""
    try:
        return json.dumps(json.loads(raw), ensure_ascii=False, indent=2)
    except ValueError:
        return raw


class _Numbers:
    """The number of the row at a place: most often the place itself, counted from 1."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __call__(self, place: int | None) -> int | None:
        if place is None:
            return None
        picked = picking.pick(self.path, [place])
        return picked[0].row.number if picked else None


def bases_context(settings: Settings, model: str) -> int | None:
    """What a model that lies here can read, as far as it says so. Looks at that one alone."""
    try:
        folder = bases.here(model, None, settings) if model else None
        return bases.inspect(folder).context_length if folder else None
    except StudioError:
        return None


def badges(shown: Sequence[int], findings: list[Finding] | None) -> dict[int, list[str]]:
    """The names of what was found in each of these rows."""
    return {place: [each.name for each in findings or [] if _holds(each.involved, place)] for place in shown}


def _holds(places: Sequence[int], place: int) -> bool:
    at = bisect_left(places, place)
    return at < len(places) and places[at] == place


def ahead(edge: Edge, version: DatasetVersion, look: Look, shown: Panel) -> Coroutine[Any, Any, None] | None:
    """Work that marks the page behind this one before anybody asks, so that going on is instant."""
    lens = look.lens
    if (
        lens is None
        or not look.needs_tokens
        or shown.behind is None
        or not shown.inked
        or look.q
        or look.which != "all"
    ):
        return None
    start = shown.inked[-1].place + 1
    places = list(range(start, min(start + ROWS_SHOWN, version.rows)))

    ending = threading.Event()

    async def work() -> None:
        try:
            await edge.apart(mark, edge.settings, version, lens, places, ending.is_set)
        except StudioError:
            return  # told when somebody goes there
        except asyncio.CancelledError:
            ending.set()
            raise

    return work()
