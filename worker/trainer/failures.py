"""Failures that trying again will not mend, in words a person can act on."""

from __future__ import annotations

import torch

from backend.core.errors import StudioError
from backend.core.limited import BAD_ALLOC
from worker import disks


class Failed(StudioError):
    """The run ends in `failed`, with this as its cause."""

    code = "failed"


def not_finite(first: int, last: int) -> Failed:
    return Failed(
        f"The loss or its gradients were not finite in {last - first + 1} steps in a row (steps {first} to {last}).",
        code="nan",
        hint="Try a tenth of the learning rate, bf16 or fp32 instead of fp16, and look for odd rows in the data. "
        "The last good checkpoint is kept.",
    )


def out_of_memory(doing: str, rows: int = 0, longest: int = 0) -> Failed:
    """`doing` is `at step 12` or `while loading the model`; `rows` × `longest` tokens was the batch."""
    if not rows:
        return Failed(
            f"Out of memory {doing}.", code="out_of_memory", hint="Try QLoRA, a smaller model, or a larger accelerator."
        )
    smaller = f"batch {rows // 2} with twice the accumulation" if rows > 1 else f"max_length {max(8, longest // 2):,}"
    return Failed(
        f"Out of memory {doing}: batch {rows} × {longest:,} tokens.",
        code="out_of_memory",
        hint=f"Try {smaller}, gradient checkpointing, or QLoRA.",
    )


def disk_full(doing: str) -> Failed:
    return Failed(f"The disk is full: {doing}.", code="disk_full", hint=disks.HINT)


def gave_up(doing: str, error: BaseException) -> Failed:
    """Of a library that a model's files made meet what it never expected."""
    return Failed(
        f"The model's files made a library give up while {doing}: {in_a_line(error)}",
        code="model.load",
        where="model",
        hint="Choose another base model.",
    )


def in_a_line(error: BaseException) -> str:
    """What an error says, where it says more than one wants to read."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


OUT_OF_MEMORY_WORDS = (BAD_ALLOC, "DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Of plain `RuntimeError`s: of torch on a CPU, and of what asks the driver for memory past torch."""


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


def is_of_the_machine(error: BaseException) -> bool:
    """Whether memory, disk, file system or accelerator failed, so that what was read with them may be good all the same. A
    library's own `OSError` about a file's content has no number."""
    is_of_the_system = isinstance(error, OSError) and error.errno is not None
    has_no_room = is_out_of_memory(error) or disks.is_full(error)
    return is_of_the_system or has_no_room or isinstance(error, torch.AcceleratorError)
