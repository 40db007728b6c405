"""A step of LoRA (1d) and of QLoRA (1e) on an accelerator, beside TRL with PEFT: `python -m benchmarks.accelerator`.

An 8B Llama of random weights, rank 16 on all linear layers, rows of 4,096 tokens: tokens a second, the arithmetic that this
is, its share of a plain matrix product timed in the same process, and the most memory. What is trained is a studio's run with
its journal, and TRL on the same job (`benchmarks/sft.py`); the sides take turns, each in a process of its own. Activations are
checkpointed only where the device has not the memory for them. `--tiny` runs the same lines on a CPU with a small model, as a
test of the script itself; its figures mean nothing. TRL comes with Liger's kernels, for this run alone. Where they cannot be
fetched, ours runs by itself, and its rows do not hold. `make bench` leaves both rows out where no accelerator has the memory for
them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from backend.core.assignment import JOURNAL
from benchmarks import sft
from benchmarks.peers import beside_ours, own_versions, told, versions
from benchmarks.rows import Asked, Row, keep, measured_commit, row, table
from worker.trainer.journal import Journal
from worker.trainer.train import use_device

GFLOP_A_TOKEN = 34
"""8B: forward and gradient of the input through frozen weights, attention at 4,096 tokens, and the adapter."""
MATMUL = 8192
LEAST_TOKENS = {"H100": 13_500, "H200": 14_500}
LEAST_SHARE_OF_LORA = 0.93
SAME_LOSS = 0.002
"""From the same weights, of the same rows in the same order: what is left between two losses is the rounding of bf16."""
LEAST_MEMORY_BYTES = 40 << 30
"""An 8B model in bf16, and what a step of two rows leaves behind for the pass back."""
ROOM_FOR_ACTIVATIONS_BYTES = 100 << 30
"""What all activations of two rows of 4,096 tokens take in such a model, its weights, and some room."""
ROUNDS = 2
CASES = {"lora": "1d", "qlora": "1e"}
PEER = ("trl==1.16.0", "liger-kernel==0.8.5")
VERSIONS = ("transformers", "peft", "torch")


@dataclass(frozen=True)
class Setting:
    """What is trained, and for how long."""

    shape: dict[str, int]
    tokens: int
    rows: int
    steps: int
    warm_up: int
    device: str
    dtype: torch.dtype


BIG = Setting(
    {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
     "num_key_value_heads": 8, "vocab_size": 128_256},
    tokens=4096, rows=2, steps=20, warm_up=5, device="cuda:0", dtype=torch.bfloat16,
)  # fmt: skip
TINY = Setting(
    {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
     "num_key_value_heads": 2, "vocab_size": 512},
    tokens=64, rows=2, steps=3, warm_up=1, device="cpu", dtype=torch.float32,
)  # fmt: skip


class Clock(TrainerCallback):
    """Seconds of each step behind the warm-up: by events of the device where it has them."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.marks = setting, list[Any]()

    def on_step_end(self, *_arguments: Any, **_named: Any) -> None:
        if self.setting.device == "cpu":
            self.marks.append(time.perf_counter())
            return
        mark: Any = torch.cuda.Event(enable_timing=True)
        mark.record()
        self.marks.append(mark)

    @property
    def seconds(self) -> list[float]:
        marks = self.marks[self.setting.warm_up - 1 :]
        if self.setting.device == "cpu":
            return [after - before for before, after in itertools.pairwise(marks)]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in itertools.pairwise(marks)]


def one_side(side: str, case: str, base: Path, setting: Setting) -> dict[str, float]:
    use_device(setting.device)
    clock, memory = Clock(setting), 0.0
    with tempfile.TemporaryDirectory() as given, Journal(Path(given) / JOURNAL) as journal:
        folder = Path(given)
        lengths = [setting.tokens] * (setting.rows * (setting.steps + setting.warm_up))
        sft.write_run(
            folder, base, lengths, longest=setting.tokens, packing=False, rows_a_step=setting.rows, method=case,
            device=setting.device, learning_rate=1e-4, gradient_checkpointing=checkpoints(setting),
        )  # fmt: skip
        job = sft.job_of(folder, folder, journal)
        trainer = sft.ours(job) if side == "ours" else sft.trl(job, job.dataset.train)
        trainer.accelerator.dataloader_config.data_seed = 0  # both see the rows in the same order
        trainer.add_callback(clock)
        loss = trainer.train().training_loss  # the mean of all steps
        if setting.device != "cpu":
            memory = torch.cuda.max_memory_allocated() / 1024**3
    del trainer, job
    tokens = setting.rows * setting.tokens / statistics.median(clock.seconds)
    return {"tokens": tokens, "gib": memory, "matmul_tflops": matmul_tflops(setting), "loss": loss}


def checkpoints(setting: Setting) -> bool:
    """Whether activations are computed again: the first thing to drop where there is memory for them."""
    if setting.device == "cpu":
        return False
    return bool(torch.cuda.get_device_properties(setting.device).total_memory < ROOM_FOR_ACTIVATIONS_BYTES)


def matmul_tflops(setting: Setting) -> float:
    """What the device reaches on a plain product of random square matrices."""
    size = MATMUL if setting.device != "cpu" else 256
    left, right = (torch.randn(size, size, dtype=setting.dtype, device=setting.device) for _ in range(2))
    return 2 * size**3 / timed(lambda: left @ right, setting) / 1e12


def timed(work: Callable[[], Any], setting: Setting, times: int = 20) -> float:
    synchronise = torch.cuda.synchronize if setting.device != "cpu" else lambda: None
    for _ in range(5):
        work()
    synchronise()
    began = time.perf_counter()
    for _ in range(times):
        work()
    synchronise()
    return (time.perf_counter() - began) / times


# ---- both sides in turns --------------------------------------------------------------------------------------------


def measure(_asked: Asked) -> Sequence[Row]:
    if not torch.cuda.is_available() or torch.cuda.get_device_properties(0).total_memory < LEAST_MEMORY_BYTES:
        print("there is no accelerator of 40 GiB here: its rows stay as they are")
        return []
    return compare(tiny=False)


def compare(*, tiny: bool) -> list[Row]:
    setting = TINY if tiny else BIG
    with tempfile.TemporaryDirectory() as given, ExitStack() as stack:
        environment = peers_environment(stack)
        sides = ("ours",) if environment is None else ("ours", "trl")
        with of_type(setting):
            sft.write_base(base := Path(given) / "base", setting.shape, context=2 * setting.tokens)
        if setting.device != "cpu":
            torch.cuda.empty_cache()
        found = {case: in_turns(sides, case, base, environment or {}, tiny=tiny) for case in CASES}
        known = (
            versions(sys.executable, "trl", "liger-kernel", *VERSIONS, **environment)
            if environment
            else own_versions(*VERSIONS)
        )
    device = "CPU, tiny: a test of the script, whose figures mean nothing" if tiny else torch.cuda.get_device_name(0)
    device += f"; {known}" + ("; activations checkpointed" if checkpoints(setting) else "")
    lora = found["lora"]["ours"]["tokens"]
    return [one_row(case, found[case], lora, device) for case in CASES]


def peers_environment(stack: ExitStack) -> Mapping[str, str] | None:
    """The variables with which both sides run; None where nobody can fetch the peer, which the installer's words explain."""
    try:
        return stack.enter_context(beside_ours(*PEER, whole=("datasets",)))
    except subprocess.CalledProcessError:
        return None


@contextmanager
def of_type(setting: Setting) -> Iterator[None]:
    """What is made within lies on the device, in its type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(setting.dtype)
    try:
        with torch.device(setting.device):
            yield
    finally:
        torch.set_default_dtype(before)


def in_turns(
    sides: Sequence[str], case: str, base: Path, environment: Mapping[str, str], *, tiny: bool
) -> dict[str, dict[str, float]]:
    """The medians of each side."""
    rounds = [
        {side: side_run(side, case, base, environment, tiny=tiny) for side in sides}
        for _ in range(1 if tiny else ROUNDS)
    ]
    return {
        side: {name: statistics.median(each[side][name] for each in rounds) for name in rounds[0][side]}
        for side in sides
    }


def side_run(side: str, case: str, base: Path, environment: Mapping[str, str], *, tiny: bool) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.accelerator", "--side", side, "--case", case]
    found: dict[str, float] = told([*command, "--base", str(base), *["--tiny"] * tiny], **environment)
    return found


def one_row(case: str, sides: dict[str, dict[str, float]], lora: float, device: str) -> Row:
    mine, peer = sides["ours"], sides.get("trl")
    equal = peer is not None and abs(mine["loss"] / peer["loss"] - 1) <= SAME_LOSS
    tflops = mine["tokens"] * GFLOP_A_TOKEN / 1000
    beside = f"{device}; {tflops:.0f} TFLOP/s, {100 * tflops / mine['matmul_tflops']:.0f} % of a plain product; "
    beside += f"loss {mine['loss']:.4f}, {mine['gib']:.1f} GiB"
    beside += f", TRL's {peer['loss']:.4f}, {peer['gib']:.1f} GiB" if peer else ", no TRL at hand to compare with"
    beside += f"; {mine['tokens'] / lora:.2f} of LoRA" if case == "qlora" else ""
    of_device = next((least for name, least in LEAST_TOKENS.items() if name in device), None)
    what = f"8B {case}, rows of 4,096 tokens" + (", beside TRL" if peer else "")
    return row(CASES[case], what, "tokens/s", mine["tokens"],
               peer["tokens"] if peer else None, more_is_better=True, least_ratio=1,
               least=of_device if case == "lora" else LEAST_SHARE_OF_LORA * lora, equal=equal, beside=beside)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with a small model: tests the script")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=tuple(CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    setting = TINY if given.tiny else BIG
    if given.side:
        print(json.dumps(one_side(given.side, given.case, given.base, setting)))
        return
    if not given.tiny and not torch.cuda.is_available():
        parser.error("there is no accelerator here; --tiny tests the script without one")
    commit = measured_commit()
    rows = compare(tiny=given.tiny)
    print(table(rows))
    if not given.tiny and not keep(rows, measured_commit(before=commit)):
        print("not kept, for no commit holds what was measured")


if __name__ == "__main__":
    main()
