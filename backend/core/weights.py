"""Headers of safetensors files: what tensors a folder holds, without loading one. https://huggingface.co/docs/safetensors

The header is JSON of the stranger's choosing: its length, its shapes and its offsets are all checked against the file.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.core.configurations import MOST
from backend.core.errors import Invalid

HEADER_BYTES = 16 << 20
MOST_TENSORS, NAME_LENGTH = 150_000, 512
"""Mixtures of 384 experts in 60 layers, each matrix with its scale, have 138,000 tensors, in a hundred files and more."""
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6,
    "F6_E3M2": 6, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64,
}  # fmt: skip
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn"}


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by name. Raises `Invalid` where header and file do not agree to the byte."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise damaged(path.name, "its header is longer than the file; it may be no safetensors file at all")
        if length > HEADER_BYTES:
            raise _beyond(f"{path.name} has a header of more than {HEADER_BYTES >> 20} MiB")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        refuse_crowd(path.name, len(header))
        tensors = {name: _tensor(words) for name, words in header.items()}
        extents = sorted(_extent(words["data_offsets"]) for words in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged(path.name, "its header cannot be read") from None
    _check_extent(path.name, tensors, header, extents, size - 8 - length)
    return tensors


def refuse_crowd(name: str, tensors: int) -> None:
    """Raise `Invalid` for more tensors than models have: to look at each takes time and memory."""
    if tensors > MOST_TENSORS:
        raise _beyond(f"{name} holds more than {MOST_TENSORS:,} tensors")


def _tensor(words: dict[str, Any]) -> Tensor:
    shape = tuple(words["shape"])
    if words["dtype"] not in BITS or any(type(side) is not int or not 0 <= side < MOST for side in shape):
        raise ValueError
    return Tensor(words["dtype"], shape)


def _extent(offsets: list[int]) -> tuple[int, int]:
    start, end = offsets
    if type(start) is not int or type(end) is not int:
        raise ValueError
    return start, end


def _check_extent(
    name: str, tensors: dict[str, Tensor], header: dict[str, Any], extents: list[tuple[int, int]], size: int
) -> None:
    """The tensors lie end to end and fill the file."""
    if any(len(key) > NAME_LENGTH for key in tensors):
        raise _beyond(f"{name} names a tensor with more than {NAME_LENGTH} characters")
    at = 0
    for start, end in extents:
        if start != at or end < start:
            raise damaged(name, "its tensors overlap or leave gaps")
        at = end
    if at != size:
        raise damaged(
            name, f"it is cut off: {size:,} of {at:,} bytes" if size < at else "something follows the tensors"
        )
    for key, tensor in tensors.items():
        start, end = header[key]["data_offsets"]
        if tensor.elements * BITS[tensor.dtype] != (end - start) * 8:
            raise damaged(name, f"the size of {key[:100]!r} does not fit its shape")


def _beyond(words: str) -> Invalid:
    return Invalid(f"{words}, as no model does.", hint="Choose another model.", code="model.refused")


def damaged(name: str, why: str) -> Invalid:
    return Invalid(f"{name} is damaged: {why}.", hint="Download it again.", code="model.damaged")
