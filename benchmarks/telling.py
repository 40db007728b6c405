"""What telling costs a real trainer's step: `python -m benchmarks.telling` prints one line of JSON.

One run of a studio's trainer tells its steps as ever in every other block of steps, and in those between it does not: it neither
counts the batch, nor asks for the loss and the norm of its gradients, nor writes. Steps are short, so that what telling adds to
them, which is as much in a long one, is not lost in their noise. The clock is the process's, with the thread that writes.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from backend.core.assignment import JOURNAL
from benchmarks import sft
from worker.trainer.fit import Job, StudioTrainer
from worker.trainer.journal import Journal
from worker.trainer.train import choose_head

TOKENS, PAIRS, BLOCK = 64, 24, 20
SETTLING = 4
"""Steps of a block that are not looked at: what waits to be written is written meanwhile."""


class NowAndThenTelling(StudioTrainer):
    """Tells in the even blocks of steps; in the odd ones it goes on as transformers' own trainer would that logs nothing."""

    def __init__(self, job: Job) -> None:
        self.began: list[float] = []
        super().__init__(job)

    @property
    def is_telling(self) -> bool:
        return (len(self.began) - 1) // BLOCK % 2 == 0

    def get_batch_samples(self, *arguments: Any) -> Any:
        self.began.append(time.process_time())
        return self._told().get_batch_samples(*arguments)

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss: torch.Tensor = self._told().training_step(*arguments, **named)
        return loss

    def _get_grad_norm(self, *arguments: Any, **named: Any) -> Any:
        return self._told()._get_grad_norm(*arguments, **named)

    def _maybe_log_save_evaluate(self, *arguments: Any, **named: Any) -> None:
        self.control.should_log = self.is_telling
        super()._maybe_log_save_evaluate(*arguments, **named)

    def _told(self) -> Any:
        """The class whose way holds in this step."""
        return super() if self.is_telling else super(StudioTrainer, self)


def measure_telling() -> dict[str, float]:
    """Microseconds of processor that a step costs more where it is told: the median of pairs of blocks, and its error."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        steps = 2 * PAIRS * BLOCK + 1
        sft.write_work(folder, [TOKENS] * steps, longest=TOKENS, packing=False, rows_a_step=1)
        (attempt := folder / "attempt").mkdir()
        with Journal(attempt / JOURNAL) as journal:
            job = sft.job_of(folder, attempt, journal)
            choose_head(job)
            trainer = NowAndThenTelling(job)
            trainer.train()
        lines = [json.loads(line) for line in (attempt / JOURNAL).read_text().splitlines()]
    told = [line["step"] for line in lines if line["kind"] == "metrics"]
    assert len(told) == PAIRS * BLOCK + 1, len(told)
    return difference([(after - before) * 1e6 for before, after in pairwise(trainer.began)])


def difference(steps: Sequence[float]) -> dict[str, float]:
    """`steps` are their costs, in order."""
    blocks = [statistics.fmean(steps[at + SETTLING : at + BLOCK]) for at in range(0, len(steps), BLOCK)]
    apart = [told - untold for told, untold in zip(blocks[::2], blocks[1::2], strict=True)]
    error = 1.25 * statistics.stdev(apart) / len(apart) ** 0.5  # of a median, were they normally distributed
    return {"telling": statistics.median(apart), "error": error, "step": statistics.median(blocks[1::2])}


if __name__ == "__main__":
    print(json.dumps(measure_telling()))
