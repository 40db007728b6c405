"""The loss head beside all logits (1c): how far a process's memory grows, what it costs, and how both grow with the tokens.

Both sides compute the loss of the same hidden states, all of whose tokens are taught, and its gradient, each in a process of
its own: `python -m benchmarks.loss_head ours|all TOKENS [FILE]` prints one line of JSON, and leaves the gradient in the file.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import ONE_THREAD, own_versions, told
from benchmarks.rows import Asked, Row, growth, row
from worker.peak import peak_bytes

WIDTH, VOCABULARY = 512, 32_000
TOKENS, ROUNDS = 2048, 3
SAME = 1e-5
GROWTH = (1, 10, 100)
"""All logits of so many tokens would take more memory than most machines have: there ours is measured alone."""


def measure(_asked: Asked) -> Sequence[Row]:
    with tempfile.TemporaryDirectory() as given:
        files = {side: Path(given) / f"{side}.pt" for side in ("ours", "all")}
        rounds = [{side: side_run(side, TOKENS, file) for side, file in files.items()} for _ in range(ROUNDS)]
        apart = gradients_apart(files["ours"], files["all"])
    ours, every = (median([each[side] for each in rounds]) for side in ("ours", "all"))
    grown = {1: ours} | {factor: side_run("ours", TOKENS * factor) for factor in GROWTH[1:]}
    same = f"losses {ours['loss']:.6f} and {every['loss']:.6f}, no value of the gradients more than {apart:.0e} of the largest "
    same += f"apart; {own_versions('torch')}"
    equal = abs(ours["loss"] / every["loss"] - 1) < SAME and apart < SAME
    memory = ", ".join(f"{factor}× tokens {each['mib']:.0f} MiB" for factor, each in grown.items())
    costs = [each["seconds"] / TOKENS / factor * 1e6 for factor, each in grown.items()]
    sizes = [TOKENS * factor for factor in grown]
    return [
        row("1c", "memory of the loss head, beside all logits", "MiB", ours["mib"], every["mib"], least_ratio=10,
            equal=equal, beside=f"{same}; {memory}, of which the gradient of the hidden state grows"),
        row("1c", "time of the loss head, beside all logits", "CPU-s", ours["seconds"], every["seconds"], least_ratio=1,
            equal=equal, beside=same),
        growth("1c-growth", "loss head: a token's time at 100 times the tokens", costs, at=sizes, of="tokens",
               unit="µs of processor a token", digits=0),
    ]  # fmt: skip


def median(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def gradients_apart(ours: Path, every: Path) -> float:
    """The largest difference of any two values at the same place, as a share of the largest value."""
    from safetensors.torch import load_file

    one, other = (load_file(file)["gradient"] for file in (ours, every))
    return float((one - other).abs().max() / other.abs().max())


def side_run(side: str, tokens: int, gradient: Path | None = None) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.loss_head", side, str(tokens)]
    command += [str(gradient)] if gradient else []
    found: dict[str, float] = told(command, **ONE_THREAD)
    return found


def run(side: str, tokens: int, gradient: Path | None) -> dict[str, float]:
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional
    from transformers import LlamaConfig, LlamaForCausalLM

    from worker.trainer.head import LossHead

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=8, num_hidden_layers=1)
    model: Any = LlamaForCausalLM(config).requires_grad_(False)
    head = LossHead.of(model, torch.float32)
    hidden, targets = torch.randn(tokens, WIDTH), torch.randint(VOCABULARY, (tokens,))

    def loss(state: Any, labels: Any) -> Any:
        if side == "all":
            return functional.cross_entropy(model.lm_head(state), labels, reduction="sum")
        return head.summed_over(state, labels)

    loss(hidden[:8].clone().requires_grad_(), targets[:8]).backward()  # what libraries set up once
    leaf, before = hidden.requires_grad_(), peak_bytes()
    began = time.process_time()
    total = loss(leaf, targets)
    total.backward()
    seconds, grown = time.process_time() - began, (peak_bytes() - before) / 1024**2
    if gradient:
        assert leaf.grad is not None
        save_file({"gradient": leaf.grad}, gradient)
    return {"mib": grown, "seconds": seconds, "loss": total.item() / tokens}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None)))
