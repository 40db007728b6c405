"""Training beside TRL: real tokens for a second of processor time, where rows differ in length (1a) and where they do not (1b).

Both sides take turns, each run in a process of its own with one thread (`benchmarks/sft.py`). Where lengths differ, ours packs
and TRL pads; a step has as many tokens on both sides, and so has the run as many steps. What each has learned is measured
the same way afterwards: the loss over every supervised token of all rows.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import ONE_THREAD, beside_ours, told
from benchmarks.rows import Asked, Row, growth, row

ROUNDS = 2
GROWTH = (0.1, 1, 10)
SAME_LOSS = 0.02
"""Two runs that see the rows in another order end about that far apart, relative."""


@dataclass(frozen=True)
class Case:
    """`documents` of ours fill `rows_a_step` packed rows; TRL takes `documents_a_step` of them."""

    id: str
    growth_id: str
    what: str
    least_ratio: float
    packing: bool
    rows_a_step: int
    documents_a_step: int
    documents: int


CASES = (
    Case("1a", "1a-growth", "LoRA, lengths of conversations", 2.5, True, 2, 8, 240),
    Case("1b", "1b-growth", "LoRA, all rows of 512 tokens", 1.3, False, 2, 2, 60),
)


def measure(asked: Asked) -> Sequence[Row]:
    with beside_ours("trl==1.16.0", whole=("datasets",)) as environment:
        scale = 10 if asked.long else 1
        compared = [compare(case, environment, scale=scale) for case in CASES if asked.wants(case.id)]
        return [*compared, *(grown(case, environment) for case in CASES if asked.wants(case.growth_id))]


def compare(case: Case, environment: Mapping[str, str], *, scale: int = 1) -> Row:
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        write(folder, case, scale)
        rounds = [{side: side_run(side, folder, environment) for side in ("ours", "trl")} for _ in range(ROUNDS)]
    ours, peer = [each["ours"] for each in rounds], [each["trl"] for each in rounds]
    losses = ours[0]["loss"], peer[0]["loss"]
    apart = abs(losses[0] / losses[1] - 1)
    return row(
        case.id,
        f"{case.what}, beside TRL",
        "tokens/CPU-s",
        speed(ours),
        speed(peer),
        more_is_better=True,
        least_ratio=case.least_ratio,
        equal=losses[0] <= losses[1] or apart <= SAME_LOSS,
        beside=f"loss afterwards {losses[0]:.4f} and {losses[1]:.4f} ({100 * apart:.2f} % apart), "
        f"{ours[0]['steps']} and {peer[0]['steps']} steps",
    )


def grown(case: Case, environment: Mapping[str, str]) -> Row:
    """What a token costs ours in runs of ten and a hundred times the documents."""
    costs = []
    for scale in GROWTH:
        with tempfile.TemporaryDirectory() as given:
            write(Path(given), case, scale)
            costs.append(1e6 / speed([side_run("ours", Path(given), environment)]))
    what, counts = (
        f"{case.what}: a token's time in 100 times the data",
        [int(case.documents * scale) for scale in GROWTH],
    )
    unit = "µs of processor a token"
    return growth(case.growth_id, what, costs, at=counts, of="documents", unit=unit, digits=0, most=1.25)


def write(folder: Path, case: Case, scale: float) -> None:
    from benchmarks import sft

    documents = int(case.documents * scale)
    lengths = sft.skewed(documents) if case.packing else [sft.LONGEST] * documents
    sft.write_work(folder, lengths, packing=case.packing, rows_a_step=case.rows_a_step)
    (folder / "told.json").write_text(json.dumps({"documents_a_step": case.documents_a_step}))


def side_run(side: str, folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.sft", side, str(folder)]
    found: dict[str, Any] = told(command, **{**environment, **ONE_THREAD})
    return found


def speed(runs: Sequence[Mapping[str, Any]]) -> float:
    return float(statistics.median(each["tokens"] / each["seconds"] for each in runs))
