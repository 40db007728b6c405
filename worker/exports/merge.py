"""Base + adapter = model, one tensor at a time: peak memory follows the largest *adapted* tensor, not the model.

The bits are those of PEFT's `merge_and_unload` on the same weights. One difference is meant: where an update was trained on one
of two tied tensors, PEFT adds it to both, which nobody trained; here the two are written apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from backend.core.errors import Invalid
from backend.core.methods.merging import LazyTensor, MergePlan, MergePlanner
from worker.exports.dequantise import dequantising_steps
from worker.exports.tensors import StoredTensor, TensorJob, stored_tensors, write_shard

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from backend.core.methods.merging import TensorStep

Value = TypeVar("Value")
OnProgress = Callable[[int, int], None]
"""Hears of bytes done and bytes in all."""


@dataclass(frozen=True)
class MergeReport:
    """What was written. `untied`: head and embedding now stand apart, and the config says so."""

    tensors: int
    changed: int
    bytes: int
    files: tuple[str, ...]
    vocab_size: int
    untied: bool


def no_progress(done: int, total: int) -> None:
    """Nobody listens."""


def merge(
    base: Path,
    adapter: Path,
    out: Path,
    *,
    planner: MergePlanner,
    compute_dtype: torch.dtype | None = None,
    quantisation: BitsAndBytesConfig | None = None,
    device: str = "cpu",
    on_progress: OnProgress = no_progress,
) -> MergeReport:
    """Write base + adapter to `out` in the base's own number types and shards, with its config.json.

    `quantisation` merges onto the weights that a quantised run multiplied with: cast to `compute_dtype`, quantised on
    `device` as `from_pretrained` did, and back. Raises `Invalid` for what cannot be merged faithfully.
    """
    skeleton = empty_model(base)
    config = json.loads((adapter / "adapter_config.json").read_text())
    plan = planner(skeleton, stored_tensors(adapter, "adapter_model"), config)
    stored, plan, untied = settle_ties(skeleton, full_names(skeleton, stored_tensors(base, "model")), plan)
    first = dequantising_steps(skeleton, quantisation, compute_dtype, device) if quantisation else {}
    jobs = [adapted_job(name, tensor, plan, first.get(name), compute_dtype) for name, tensor in stored.items()]
    shards = {name: tensor.file.name for name, tensor in stored.items()}
    return write_model(skeleton, base, out, jobs, shards, untied=untied, on_progress=on_progress)


def write_trained(base: Path, trained: Path, out: Path, *, on_progress: OnProgress = no_progress) -> MergeReport:
    """Write the fully fine-tuned weights of `trained` to `out`, in the number types and shards of the base."""
    skeleton = empty_model(base)
    whole = MergePlan(steps={}, replaced=full_names(skeleton, stored_tensors(trained, "model")))
    stored, plan, _ = settle_ties(skeleton, full_names(skeleton, stored_tensors(base, "model")), whole)
    jobs = [adapted_job(name, tensor, plan) for name, tensor in stored.items()]
    shards = {name: tensor.file.name for name, tensor in stored.items()}
    return write_model(skeleton, base, out, jobs, shards, untied=False, on_progress=on_progress)


def empty_model(base: Path) -> PreTrainedModel:
    """The base's modules without any weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base)
    if getattr(config, "quantization_config", None):
        raise Invalid(
            "The base model's own files are quantised, and nothing can be merged into those.",
            code="merge.quantised_base",
            hint="Take the base in bf16 or fp32; QLoRA quantises it while loading.",
        )
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def full_names(skeleton: PreTrainedModel, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Names as the model has them: GPT-2's own file, for one, leaves the prefix `transformer.` out."""
    prefix = f"{skeleton.base_model_prefix}."
    longer = {name.removeprefix(prefix): name for name in skeleton.state_dict()}
    return {longer.get(name, name): tensor for name, tensor in stored.items()}


def settle_ties(
    skeleton: PreTrainedModel, stored: dict[str, StoredTensor], plan: MergePlan
) -> tuple[dict[str, StoredTensor], MergePlan, bool]:
    """Write tied tensors once, or twice where the training set them apart; the last value tells whether it did."""
    tied = skeleton.all_tied_weights_keys if skeleton.config.get_text_config().tie_word_embeddings else {}
    untied = False
    for head, embedding in tied.items():
        if embedding not in stored and head in stored:  # some files name the shared tensor by the head
            stored = {**stored, embedding: stored[head]}
        if {head, embedding} & plan.apart:
            stored, untied = {**stored, head: stored.get(head, stored[embedding])}, True
        else:
            stored, plan = (
                _without(stored, head),
                replace(plan, steps=_without(plan.steps, head), replaced=_without(plan.replaced, head)),
            )
    if lost := sorted((plan.steps.keys() | plan.replaced.keys()) - stored.keys()):
        raise Invalid(
            f"The base model has no tensor {lost[0]}{f' and {len(lost) - 1} more' if lost[1:] else ''}.",
            code="merge.names",
            hint="The adapter belongs to another base, or this architecture's files name their tensors differently.",
        )
    return stored, plan, untied


def _without(tensors: Mapping[str, Value], name: str) -> dict[str, Value]:
    return {key: value for key, value in tensors.items() if key != name}


def _stored(tensor: LazyTensor) -> StoredTensor:
    """Planners see tensors through a protocol; those that they return are ours."""
    assert isinstance(tensor, StoredTensor)
    return tensor


def adapted_job(
    name: str,
    tensor: StoredTensor,
    plan: MergePlan,
    first: TensorStep | None = None,
    compute_dtype: torch.dtype | None = None,
) -> TensorJob:
    """What is written under `name`, in the number type of the base's `tensor`: that, its adaption, or its replacement."""
    step = plan.steps.get(name)
    # PEFT saves an adapted embedding whole, as it was before its update: such a tensor is replaced and has a step.
    origin = _stored(plan.replaced.get(name, tensor))
    steps = tuple(each for each in (first if origin is tensor else None, step) if each)
    # A base stored in bf16 and trained in fp32 is merged in fp32 and rounded once, at the end.
    work = torch.promote_types(tensor.dtype, compute_dtype) if compute_dtype else tensor.dtype
    return TensorJob(name, origin, tensor.dtype, steps, work)


def write_model(
    skeleton: PreTrainedModel,
    base: Path,
    out: Path,
    jobs: Sequence[TensorJob],
    shards: Mapping[str, str],
    *,
    untied: bool,
    on_progress: OnProgress,
) -> MergeReport:
    """The shards one after the other, their index where one is needed, and the config as the weights now are."""
    out.mkdir(parents=True, exist_ok=True)
    total, done = sum(job.origin.end - job.origin.start for job in jobs), 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, max(done, total))

    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(set(shards.values())):
        shapes |= write_shard(out / file, [job for job in jobs if shards[job.name] == file], tell)
    files = tuple(sorted(set(shards.values())))
    if files != ("model.safetensors",):  # a single file may have a shard's name, too
        index = {"metadata": {"total_size": done}, "weight_map": {job.name: shards[job.name] for job in jobs}}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    vocab_size = vocabulary_of(skeleton, shapes)
    write_config(base, out, vocab_size=vocab_size, untied=untied)
    changed = sum(not job.copied for job in jobs)
    return MergeReport(len(jobs), changed, done, files, vocab_size, untied)


def vocabulary_of(skeleton: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Rows of the embedding, which must be those of the head."""
    ends = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())
    names = [f"{name}.weight" for name, module in skeleton.named_modules() if any(module is end for end in ends)]
    rows = sorted({shapes[name][0] for name in names if name in shapes})
    if len(rows) != 1:
        raise Invalid(
            f"Embedding and head have {' and '.join(map(str, rows))} rows: the adapter carries the added rows of only one.",
            code="merge.rows",
            hint="Train again with the added tokens trained in both.",
        )
    return rows[0]


def write_config(base: Path, out: Path, *, vocab_size: int, untied: bool) -> None:
    config: dict[str, Any] = json.loads((base / "config.json").read_text())
    for part in (config, config.get("text_config") or {}):
        if untied:
            part["tie_word_embeddings"] = False
        if "vocab_size" in part:
            part["vocab_size"] = vocab_size
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
