"""The base model in memory, checked, with room for added tokens and the method applied."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig, set_seed

from backend.core.assignment import Assignment
from backend.core.bases import check_files, read_tensors
from backend.core.configurations import quantisation
from backend.core.errors import Invalid, StudioError, is_failure
from backend.core.limited import at_most_more
from backend.core.memory import Precision, resolve_precision
from backend.core.misfits import OWN_HINT, held, refuse_misfits
from backend.core.rendering import Prepared
from worker.exports.tensors import weight_files
from worker.trainer.failures import in_a_line, is_of_the_machine
from worker.trainer.journal import Journal
from worker.trainer.kernels import quantised_layers, skipped_layers, stay_on_one_kernel

OUTLINE_MIB = 2048
"""For a model's modules without their weights, of which the largest take a tenth of it."""
OUTSIZE = 2
"""A model so many times as large as its weights is not even begun; what is missing from a smaller one is told by name."""
SHOWN_NAMES = 3
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
    with _told_of_the_model():
        refuse_other_weights(assignment.model_folder)
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


def _from_pretrained(assignment: Assignment, options: dict[str, Any]) -> Any:
    attention = assignment.recipe.model.attn_implementation
    if attention != "auto":
        options = options | {"attn_implementation": attention}
    with _told_of_the_model():
        # What does not fit is told by the tensor's name here; the library would only say that something did not.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            assignment.model_folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    model, told = loaded
    refuse_made_up(told["missing_keys"], told["mismatched_keys"])
    return model if "device_map" in options else model.to(assignment.device)


@contextmanager
def _told_of_the_model() -> Iterator[None]:
    """Raise `Invalid` for whatever a library raises within: a library that it lacks, a setting that it does not know, a value
    that it did not expect. The next attempt would meet the same. What the machine lacks is told as that."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, StudioError) or is_of_the_machine(error) or not is_failure(error):
            raise
        words = f"The model cannot be loaded: {in_a_line(error)}"
        hint = "Try attn_implementation auto, or another base model."
        raise Invalid(words, where="model", hint=hint, code="model.load") from error


def refuse_other_weights(folder: Path) -> None:
    """Raise `Invalid` where the configuration describes a model far larger than the weights: what is missing would be
    made up before anybody could tell, and may be more than the machine has memory for. Or where a tensor has another
    size: what loads into 4 bits does not look. Nothing is loaded for that."""
    config, tensors = check_files(folder), read_tensors(folder)
    refuse_misfits(config, tensors)
    try:
        with at_most_more(OUTLINE_MIB), torch.device("meta"):
            outline: Any = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            )
    except MemoryError:
        raise _misfit("The configuration describes a model of too many parts to be built.") from None
    described, most = sum(each.numel() for each in outline.parameters()), held(config, tensors)
    if described > OUTSIZE * most:
        raise _misfit(f"The configuration describes a model of {described:,} parameters, and its files hold {most:,}.")
    if quantisation(config) is None:
        wanted = {name: each for name, each in outline.named_parameters() if name in tensors}
        others = {name: each for name, each in wanted.items() if each.numel() != tensors[name].elements}
        refuse_made_up((), [(name, tensors[name].shape, each.shape) for name, each in others.items()])


def refuse_made_up(missing: Collection[str], mismatched: Collection[tuple[str, Any, Any]]) -> None:
    """Raise `Invalid` naming the tensors that were made up at random because the files have them not, or in another shape.
    A head that is tied to the embedding is not among them."""
    if missing:
        raise _misfit(f"The weights lack {_listed(missing)}, which the configuration asks for.")
    if mismatched:
        shapes = (f"{name} ({_shape(stored)} and not {_shape(wanted)})" for name, stored, wanted in mismatched)
        raise _misfit(f"The weights have another shape than the configuration asks for: {_listed(shapes)}.")


def _listed(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    shown = ", ".join([first, *rest[: SHOWN_NAMES - 1]])
    left = len(rest) + 1 - SHOWN_NAMES
    return f"{shown} and {left:,} more" if left > 0 else shown


def _shape(sides: Iterable[int]) -> str:
    return " × ".join(f"{side:,}" for side in sides)


def _misfit(message: str) -> Invalid:
    return Invalid(message, where="model", hint=OWN_HINT, code="model.misfit")


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
