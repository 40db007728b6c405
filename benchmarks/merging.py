"""Base and adapter to one model, beside PEFT's `merge_and_unload` (5a): load, merge and save, at two sizes, all tensors compared.
How it grows is told from a fiftieth of a billion parameters to a whole one.

5a-large asks ours alone how memory and a parameter's time grow up to 8B, where that is asked for by its id or with what takes
long: it takes 32 GB of disk.

Each side works in a process of its own: `python -m benchmarks.merging ours|peft FOLDER` prints one line of JSON.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import in_turns
from benchmarks.peers import ONE_THREAD, own_versions, told
from benchmarks.rows import Asked, Row, growth, row
from worker.peak import peak_bytes

ROUNDS = 4
RANK, SHARD_BYTES = 16, 400_000_000
MOST_GIB = 0.8


@dataclass(frozen=True)
class Size:
    """A Llama in bf16."""

    name: str
    hidden: int
    intermediate: int
    layers: int


SIZES = (Size("0.3B", 1024, 2816, 14), Size("1B", 2048, 5632, 16))
SMALL_SIZES = (Size("0.02B", 256, 704, 6), Size("0.1B", 512, 1408, 18))
"""What the growth is told from, of ours alone: their processes take longer to start than to merge."""
LARGE_SIZES = (SIZES[-1], Size("3B", 3072, 8448, 26), Size("8B", 4096, 14336, 34))


def measure(asked: Asked) -> Sequence[Row]:
    usual = [*small()] if asked.wants("5a") or asked.wants("5a-growth") else []
    return [*usual, *(large() if asked.long or "5a-large" in asked.ids else ())]


def small() -> Iterator[Row]:
    found = {size: compare(size) for size in SIZES}
    yield from (merge_row(size.name, each) for size, each in found.items())
    known = SIZES[-1]
    ours, peft = (found[known][side]["gib"] for side in ("ours", "peft"))
    what = f"memory of a merge of {known.name}, beside PEFT"
    yield row("5a", what, "GiB", ours, peft, most=MOST_GIB, beside=own_versions("peft", "torch"))
    few = {size: alone(size, ROUNDS) for size in SMALL_SIZES}
    yield from grown("5a-growth", few | {size: each["ours"] for size, each in found.items()})


def large() -> Iterator[Row]:
    """Ours alone: the peer would hold the whole model."""
    found = {size: alone(size) for size in LARGE_SIZES}
    largest = LARGE_SIZES[-1]
    yield row("5a-large", f"memory of a merge of {largest.name}", "GiB", found[largest]["gib"], most=MOST_GIB)
    yield from grown("5a-large", found)


def grown(row_id: str, found: Mapping[Size, Mapping[str, float]]) -> Iterator[Row]:
    """How the memory of a merge, and the processor's time for each parameter, grow with the model."""
    names, smallest = [size.name for size in found], next(iter(found)).name
    memory = [each["gib"] for each in found.values()]
    costs = [each["cpu"] / each["billions"] for each in found.values()]
    yield growth(row_id, f"memory of a merge, from {smallest} on", memory, at=names, of="parameters", unit="GiB",
                 digits=3, times="× as much")  # fmt: skip
    yield growth(row_id, f"time of a merge for each parameter, from {smallest} on", costs, at=names, of="parameters",
                 unit="s of processor for a billion")  # fmt: skip


def merge_row(name: str, found: dict[str, Any]) -> Row:
    ours, peft = found["ours"], found["peft"]
    beside = f"{found['tensors']} tensors, {found['differing']} differ; {ours['wall']:.1f} s and {peft['wall']:.1f} s on the "
    beside += f"clock; {own_versions('peft', 'torch')}"
    what, equal = f"merge of {name}, beside PEFT", found["differing"] == 0
    return row("5a", what, "CPU-s", ours["cpu"], peft["cpu"], least_ratio=1.3, equal=equal, beside=beside)


def alone(size: Size, rounds: int = 1) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as given:
        write_work(folder := Path(given), size)
        found = [side_run("ours", folder, at) for at in range(rounds)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def compare(size: Size) -> dict[str, Any]:
    """Both sides in turns, and whether what they made last is the same."""
    with tempfile.TemporaryDirectory() as given:
        write_work(folder := Path(given), size)
        both = {side: partial(side_run, side, folder) for side in ("ours", "peft")}
        rounds = in_turns(both, ROUNDS)
        tensors, differing = compared(folder / "ours", folder / "peft")
    sides = {
        side: {name: statistics.median(each[side][name] for each in rounds) for name in rounds[0][side]}
        for side in ("ours", "peft")
    }
    return {**sides, "tensors": tensors, "differing": differing}


# ---- what is merged -------------------------------------------------------------------------------------------------


def write_work(folder: Path, size: Size) -> None:
    write_base(folder / "base", size)
    write_adapter(folder / "adapter", folder / "base")


def write_base(folder: Path, size: Size) -> None:
    """Random weights, shard by shard, so that no size needs more memory than a shard."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=32_000, hidden_size=size.hidden, intermediate_size=size.intermediate, num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 64, num_key_value_heads=size.hidden // 128, dtype="bfloat16",
        tie_word_embeddings=False, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in AutoModelForCausalLM.from_config(config).state_dict().items()}
    generator, where = torch.Generator().manual_seed(0), dict[str, str]()
    for number, names in enumerate(shards(shapes)):
        file = f"model-{number:05}.safetensors"
        save_file(
            {name: torch.randn(shapes[name], generator=generator).mul_(0.02).bfloat16() for name in names},
            folder / file,
            metadata={"format": "pt"},
        )
        where |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def shards(shapes: dict[str, Any]) -> Iterator[list[str]]:
    names: list[str] = []
    for name in shapes:
        if names and 2 * sum(shapes[each].numel() for each in (*names, name)) > SHARD_BYTES:
            yield names
            names = []
        names.append(name)
    yield names


def write_adapter(folder: Path, base: Path) -> None:
    """LoRA on every linear layer but the head."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    from worker.exports.tensors import stored_tensors

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names, task_type="CAUSAL_LM").save_pretrained(str(folder))
    generator, made = torch.Generator().manual_seed(1), {}
    for name, tensor in stored_tensors(base, "model").items():
        if name.split(".")[-2] in names:
            outputs, inputs = tensor.shape
            key = f"base_model.model.{name.removesuffix('.weight')}"
            made[f"{key}.lora_A.weight"] = torch.randn(RANK, inputs, generator=generator).mul_(0.02)
            made[f"{key}.lora_B.weight"] = torch.randn(outputs, RANK, generator=generator).mul_(0.02)
    save_file(made, folder / "adapter_model.safetensors")


# ---- both sides -----------------------------------------------------------------------------------------------------


def side_run(side: str, folder: Path, _round: int) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.merging", side, str(folder)]
    found: dict[str, float] = told(command, **ONE_THREAD)
    return found


def run(side: str, folder: Path) -> dict[str, float]:
    """What it costs once the libraries are there; the memory is all that the process ever held."""
    import peft
    import torch
    import transformers

    from backend.core.methods.lora_merge import plan_lora
    from worker.exports.merge import merge

    torch.set_num_threads(1)
    began, clock = time.process_time(), time.perf_counter()
    if side == "ours":
        merge(folder / "base", folder / "adapter", folder / side, planner=plan_lora)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype="auto")
        merged: Any = peft.PeftModel.from_pretrained(model, folder / "adapter")
        merged.merge_and_unload().save_pretrained(folder / side)
    cpu, wall = time.process_time() - began, time.perf_counter() - clock
    gib, billions = peak_bytes() / 1024**3, parameters(folder / "base") / 1e9
    return {"cpu": cpu, "wall": wall, "gib": gib, "billions": billions}


def parameters(folder: Path) -> int:
    from worker.exports.tensors import stored_tensors

    return sum(math.prod(each.shape) for each in stored_tensors(folder, "model").values())


def compared(left: Path, right: Path) -> tuple[int, int]:
    """How many tensors there are, and how many of them differ in a bit."""
    import torch

    from worker.exports.tensors import stored_tensors

    one, other = stored_tensors(left, "model"), stored_tensors(right, "model")
    differing = one.keys() ^ other.keys()
    for name in one.keys() & other.keys():
        if not torch.equal(one[name].load(), other[name].load()):
            differing.add(name)
    return len(one.keys() | other.keys()), len(differing)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], Path(sys.argv[2]))))
