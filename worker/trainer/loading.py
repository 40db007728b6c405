"""The base model in memory, checked, with room for added tokens and the method applied."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig, set_seed

from backend.core.assignment import Assignment
from backend.core.errors import Invalid
from backend.core.memory import Precision, resolve_precision
from backend.core.rendering import Prepared
from worker.trainer.journal import Journal
from worker.trainer.kernels import quantised_layers, skipped_layers, stay_on_one_kernel

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be trained, and how it was loaded."""

    model: Any
    dtype: torch.dtype  # of the base's weights
    compute_dtype: torch.dtype
    quantisation: BitsAndBytesConfig | None
    use_cache: bool  # as the base's configuration says; it is off while training
    facts: dict[str, Any]


def load(assignment: Assignment, prepared: Prepared, journal: Journal) -> Loaded:
    """Load the base, make room for added tokens, apply the method. Raises `Invalid` where the base cannot be trained."""
    recipe, device = assignment.recipe, assignment.device
    refuse_bad_weights(assignment.model_folder, journal)
    compute_dtype = choose_dtype(recipe.training.precision, device)
    set_seed(recipe.training.seed)
    stay_on_one_kernel()
    options = recipe.method.load_options(device, compute_dtype)
    model = _from_pretrained(assignment, options)
    quantised = quantised_layers(model)
    if recipe.method.kind == "qlora" and not quantised:
        raise Invalid("No layer of this model can be held in 4 bits.", where="method", hint="Choose LoRA instead.")
    skipped = skipped_layers(model) if quantised else []
    use_cache = bool(getattr(model.config, "use_cache", True))
    model.config.use_cache = False  # packed documents stay apart only without it
    model.generation_config = GenerationConfig()  # the base's goes into what is exported; samples bring their own
    added = list(prepared.added_token_ids)
    make_room(model, prepared.vocab_size, added)
    model = recipe.method.apply(model, added)
    facts = _facts(model, device, compute_dtype) | {"quantised_layers": len(quantised), "skipped_layers": skipped}
    return Loaded(model, options["dtype"], compute_dtype, options.get("quantization_config"), use_cache, facts)


def choose_dtype(precision: Precision | Literal["auto"], device: str) -> torch.dtype:
    """The type in which the forward and backward passes compute. Trained weights are fp32 whatever it is."""
    on_cuda = device.startswith("cuda")
    has_bf16 = not on_cuda or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "fp16" and not on_cuda:
        raise Invalid("fp16 needs a GPU.", where="training.precision", hint="Choose auto, fp32 or bf16.")
    if precision == "bf16" and not has_bf16:
        raise Invalid("This GPU does not compute in bf16.", where="training.precision", hint="Choose auto or fp16.")
    resolved = resolve_precision(precision, on_cpu=not on_cuda, has_bf16=has_bf16)
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[resolved]


def refuse_bad_weights(folder: Path, journal: Journal) -> None:
    """Raise `Invalid` naming a tensor that holds NaN or infinity: it would spoil every step, and 4 bits would hide it."""
    files = weight_files(folder)
    if not files:
        raise Invalid(
            f"{folder.name} has no weights in safetensors format.",
            where="model",
            hint="Pickled weights are not read. Save the model again with save_pretrained.",
        )
    for done, path in enumerate(files, 1):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 -- a file, not a mapping
                tensor = tensors.get_tensor(name)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise Invalid(
                        f"The base model is damaged: {name} holds NaN or infinity.",
                        where="model",
                        hint="Download it again, or choose another base.",
                        code="model.not_finite",
                    )
        journal.progress("checking weights", done, len(files))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model, in order."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return [folder / Path(name).name for name in names]
    return [path for path in (folder / "model.safetensors",) if path.is_file()]


def _from_pretrained(assignment: Assignment, options: dict[str, Any]) -> Any:
    attention = assignment.recipe.model.attn_implementation
    if attention != "auto":
        options = options | {"attn_implementation": attention}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            assignment.model_folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, **options
        )
    except (ImportError, ValueError) as error:  # a library that is not there, a setting that this model does not know
        words = " ".join(str(error).split())[:500]
        hint = "Try attn_implementation auto, or another base model."
        raise Invalid(f"The model cannot be loaded: {words}", where="model", hint=hint, code="model.load") from error
    return model if "device_map" in options else model.to(assignment.device)


@torch.no_grad()
def make_room(model: Any, vocabulary: int, added_token_ids: list[int]) -> None:
    """Embedding rows for added tokens, each starting as the mean of the others; no random number is drawn."""
    if model.get_input_embeddings().weight.shape[0] < vocabulary:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    if not added_token_ids:
        return
    for layer in _embeddings(model):
        old = torch.ones(layer.weight.shape[0], dtype=torch.bool, device=layer.weight.device)
        old[added_token_ids] = False
        mean = layer.weight[old].float().mean(dim=0)
        layer.weight[added_token_ids] = mean.to(layer.weight.dtype)


def _embeddings(model: Any) -> Iterable[Any]:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return (embedding,) if head is None or head.weight is embedding.weight else (embedding, head)


def _facts(model: Any, device: str, dtype: torch.dtype) -> dict[str, Any]:
    trainable, total = parameter_counts(model)
    return {
        "architecture": (model.config.architectures or [""])[0],
        "trainable_parameters": trainable,
        "total_parameters": total,
        "layers": getattr(model.config, "num_hidden_layers", None),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """What this run computes with."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def parameter_counts(model: Any) -> tuple[int, int]:
    """Trainable and total parameters. PEFT knows that 4-bit weights are stored two in a byte."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
