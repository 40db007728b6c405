"""Training beside TRL: real tokens for a second of processor time, where rows differ in length (1a) and where they do not (1b).

Both sides take turns, in who begins too, each run in a process of its own with one thread (`benchmarks/sft.py`). Where lengths
differ, ours packs and TRL pads; a step has as many tokens on both sides, and so has the run as many steps. What each has
learned is measured the same way afterwards: the loss over every supervised token of all rows. Each round brings the rows in
another order: how far TRL's own losses then lie apart is what an order is worth. The medians of both sides may lie as far apart
as that, by 1 % in any case and by 2 % at most, whichever of them is lower: who learns more in as many tokens trains something
else, too.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import in_turns, span
from benchmarks.peers import ONE_THREAD, beside_ours, told, versions
from benchmarks.rows import Asked, Row, growth, row

ROUNDS = 3
LONGEST = 512
GROWTH, GROWN_LONGEST = (1, 10, 100), 128
"""Steps of few tokens: what grows with the number of rows or steps weighs the more."""
LEAST_TIMED_STEPS = 20
SAME_LOSS, MOST_APART = 0.01, 0.02
Runs = Sequence[Mapping[str, Any]]
"""What each run of a side tells, as `benchmarks.sft` prints it."""


@dataclass(frozen=True)
class Case:
    """`documents` fill packed rows, of which ours takes `rows_a_step`; `few` make some two dozen steps of one row of
    `GROWN_LONGEST`."""

    id: str
    growth_id: str
    what: str
    least_ratio: float
    packing: bool
    rows_a_step: int
    documents: int
    few: int


CASES = (
    Case("1a", "1a-growth", "LoRA, lengths of conversations", 2.5, True, 2, 240, 45),
    Case("1b", "1b-growth", "LoRA, rows of one length", 1.3, False, 2, 60, 24),
)


def measure(asked: Asked) -> Sequence[Row]:
    with beside_ours("trl==1.16.0", whole=("datasets",)) as environment:
        scale = 10 if asked.long else 1
        compared = [compare(case, environment, scale=scale) for case in CASES if asked.wants(case.id)]
        return [*compared, *(grown(case, environment) for case in CASES if asked.wants(case.growth_id))]


def compare(case: Case, environment: Mapping[str, str], *, scale: int = 1) -> Row:
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        write(folder, case, case.documents * scale, LONGEST, case.rows_a_step)
        rounds = in_turns({side: partial(side_run, side, folder, environment) for side in ("ours", "trl")}, ROUNDS)
    known = versions(sys.executable, "trl", "transformers", "peft", "torch", **environment)
    return one_row(case, [each["ours"] for each in rounds], [each["trl"] for each in rounds], known)


def one_row(case: Case, ours: Runs, peer: Runs, known: str) -> Row:
    """It holds where both sides learn the same: `known` are their versions."""
    losses, theirs = ([each["loss"] for each in side] for side in (ours, peer))
    usual = statistics.median(theirs)
    apart = abs(statistics.median(losses) / usual - 1)
    most = min(max((max(theirs) - min(theirs)) / usual, SAME_LOSS), MOST_APART)
    beside = f"{known}; loss afterwards {middle(losses)}, TRL's {middle(theirs)} in {len(theirs)} orders of the rows: "
    beside += f"{100 * apart:.2f} % apart, and no more than {100 * most:.2f} % would hold; "
    beside += f"{ours[0]['steps']} and {peer[0]['steps']} steps"
    rates = speed(ours), speed(peer)
    return row(
        case.id,
        f"{case.what}, beside TRL",
        "tokens/CPU-s",
        *rates,
        more_is_better=True,
        least_ratio=case.least_ratio,
        equal=apart <= most,
        beside=beside,
    )


def middle(losses: Sequence[float]) -> str:
    return f"{statistics.median(losses):.4f} {span(losses, 4)}"


def grown(case: Case, environment: Mapping[str, str]) -> Row:
    """What a token costs ours in runs of ten and a hundred times the documents."""
    costs, counts = [], [case.few * factor for factor in GROWTH]
    for documents in counts:
        with tempfile.TemporaryDirectory() as given:
            write(Path(given), case, documents, GROWN_LONGEST, 1)
            rounds = [
                side_run("ours", Path(given), environment, at) for at in range(1 if documents == counts[-1] else ROUNDS)
            ]
        assert min(each["timed_steps"] for each in rounds) >= LEAST_TIMED_STEPS
        costs.append(1e6 / speed(rounds))
    what, unit = f"{case.what}: a token's time in 100 times the data", "µs of processor a token"
    return growth(case.growth_id, what, costs, at=counts, of="documents", unit=unit, digits=0)


def write(folder: Path, case: Case, documents: int, longest: int, rows_a_step: int) -> None:
    from benchmarks import sft

    lengths = sft.skewed(documents, longest) if case.packing else [longest] * documents
    sft.write_work(folder, lengths, longest=longest, packing=case.packing, rows_a_step=rows_a_step)


def side_run(side: str, folder: Path, environment: Mapping[str, str], order: int) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.sft", side, str(folder), str(order)]
    found: dict[str, Any] = told(command, **{**environment, **ONE_THREAD})
    return found


def speed(runs: Runs) -> float:
    return float(statistics.median(each["tokens"] / each["seconds"] for each in runs))
