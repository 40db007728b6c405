"""The loss head beside all logits (1c): how far a process's memory grows, and what it costs, at 1× and 4× the tokens.

Both sides compute the loss of the same hidden states, all of whose tokens are taught, and its gradients, each in a process of
its own: `python -m benchmarks.loss_head ours|all TOKENS` prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.peers import ONE_THREAD, told
from benchmarks.rows import Asked, Row, row

WIDTH, VOCABULARY = 512, 32_000
TOKENS = 2048
GROWTH = (1, 4)
LONG_GROWTH = (1, 10, 100)


def measure(asked: Asked) -> Sequence[Row]:
    found = {}
    for factor in LONG_GROWTH if asked.long else GROWTH:
        sides = ("ours", "all") if factor <= 10 else ("ours",)
        found[factor] = {side: side_run(side, TOKENS * factor) for side in sides}
    ours, every = found[1]["ours"], found[1]["all"]
    same = f"losses {ours['loss']:.6f} and {every['loss']:.6f}"
    equal = abs(ours["loss"] / every["loss"] - 1) < 1e-5 and abs(ours["slope"] / every["slope"] - 1) < 1e-4
    grown = ", ".join(f"{factor}× tokens {each['ours']['mib']:.0f} MiB" for factor, each in found.items())
    last, growth = max(found), found[max(found)]["ours"]["seconds"] / ours["seconds"] / max(found)
    return [
        row("1c", "memory of the loss head, beside all logits", "MiB", ours["mib"], every["mib"], least_ratio=10,
            equal=equal, beside=f"{same}; {grown}"),
        row("1c", "time of the loss head, beside all logits", "CPU-s", ours["seconds"], every["seconds"], least_ratio=1,
            equal=equal, beside=f"{same}; a token at {last}× costs {growth:.2f} of one at 1×"),
    ]  # fmt: skip


def side_run(side: str, tokens: int) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.loss_head", side, str(tokens)]
    found: dict[str, float] = told(command, **ONE_THREAD)
    return found


def run(side: str, tokens: int) -> dict[str, float]:
    import torch
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
    leaf, before = hidden.requires_grad_(), _peak_mib()
    began = time.process_time()
    total = loss(leaf, targets)
    total.backward()
    seconds, grown = time.process_time() - began, _peak_mib() - before
    assert leaf.grad is not None
    return {"mib": grown, "seconds": seconds, "loss": total.item() / tokens, "slope": leaf.grad.norm().item()}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]))))
