"""Base and adapter to one model, beside PEFT's `merge_and_unload` (5a): load, merge and save, at two sizes, all tensors compared.

What ours holds in memory is measured with larger models too, where asked for what takes long: they take 32 GB of disk.

Each side works in a process of its own: `python -m benchmarks.merging ours|peft FOLDER` prints one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import ONE_THREAD, own_versions, told
from benchmarks.rows import Asked, Row, row
from worker.peak import peak_bytes

ROUNDS = 2
SHARD_BYTES = 400_000_000
RANK = 16
MOST_GIB, MOST_GROWTH = 0.8, 1.25
"""Memory is to be flat in the model's size: what still grows with it is the largest single tensor, which is held whole."""


@dataclass(frozen=True)
class Size:
    """A Llama in bf16."""

    name: str
    hidden: int
    intermediate: int
    layers: int


SIZES = (Size("0.3B", 1024, 2816, 14), Size("1B", 2048, 5632, 16))
LARGE_SIZES = (Size("3B", 3072, 8448, 26), Size("8B", 4096, 14336, 34))


def measure(asked: Asked) -> Sequence[Row]:
    found = {size.name: compare(size) for size in SIZES}
    peaks = {name: each["ours"]["gib"] for name, each in found.items()}
    peaks |= {size.name: memory_alone(size) for size in LARGE_SIZES if asked.long}
    smallest, known, largest = SIZES[0].name, SIZES[-1].name, list(peaks)[-1]
    beside = ", ".join(f"{name} {peak:.2f} GiB" for name, peak in peaks.items())
    return [
        *(merge_row(name, each) for name, each in found.items()),
        row("5a", f"memory of a merge of {known}, beside PEFT", "GiB", peaks[known], found[known]["peft"]["gib"],
            most=MOST_GIB, beside=own_versions("peft", "torch")),
        row("5a", f"memory of a merge of {largest}", "GiB", peaks[largest], most=MOST_GIB, beside=beside),
        row("5a-growth", f"memory of a merge of {largest}, beside {smallest}", "× as much",
            peaks[largest] / peaks[smallest], most=MOST_GROWTH, beside=beside),
    ]  # fmt: skip


def merge_row(name: str, found: dict[str, Any]) -> Row:
    ours, peft = found["ours"], found["peft"]
    beside = f"{found['tensors']} tensors, {found['differing']} differ; {ours['wall']:.1f} s and {peft['wall']:.1f} s on the "
    beside += f"clock; {own_versions('peft', 'torch')}"
    what, equal = f"merge of {name}, beside PEFT", found["differing"] == 0
    return row("5a", what, "CPU-s", ours["cpu"], peft["cpu"], least_ratio=1.3, equal=equal, beside=beside)


def memory_alone(size: Size) -> float:
    """Of ours: the peer would hold the whole model."""
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        write_base(folder / "base", size)
        write_adapter(folder / "adapter", folder / "base")
        return side_run("ours", folder)["gib"]


def compare(size: Size) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        write_base(folder / "base", size)
        write_adapter(folder / "adapter", folder / "base")
        rounds = [{side: side_run(side, folder) for side in ("ours", "peft")} for _ in range(ROUNDS)]
        tensors, differing = compared(folder / "ours", folder / "peft")
    sides = {
        side: {name: statistics.median(each[side][name] for each in rounds) for name in ("cpu", "wall", "gib")}
        for side in ("ours", "peft")
    }
    return {**sides, "tensors": tensors, "differing": differing}


# ---- what is merged -------------------------------------------------------------------------------------------------


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


def side_run(side: str, folder: Path) -> dict[str, float]:
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
    return {"cpu": cpu, "wall": wall, "gib": peak_bytes() / 1024**3}


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
