"""Safetensors read and written one tensor at a time: https://huggingface.co/docs/safetensors (8 bytes length, JSON header, data).

The library maps whole files; mapped pages stay resident, and its writer wants every tensor at once. A merge must do neither.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from backend.core.errors import Invalid

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
COPY_BYTES = 1 << 24
HEADER_BYTES_A_TENSOR = 150  # beside its name: dtype, shape and two offsets with room to spare


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: `start` and `end` are offsets in the file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    def load(self) -> torch.Tensor:
        """The tensor in fresh memory, aligned as torch aligns: matrix products then give the bits that PEFT's give."""
        data = torch.empty(self.end - self.start, dtype=torch.uint8)
        with self.file.open("rb", buffering=0) as source:
            source.seek(self.start)
            view = memoryview(data.numpy().data)
            while view:
                count = source.readinto(view)
                if not count:
                    raise Invalid(f"{self.file.name} ends early.", code="weights.short", hint="Fetch the model again.")
                view = view[count:]
        return data.view(self.dtype).reshape(self.shape)

    def copy(self, target: BinaryIO) -> None:
        with self.file.open("rb") as source:
            source.seek(self.start)
            while left := self.end - source.tell():
                piece = source.read(min(left, COPY_BYTES))
                if not piece:
                    raise Invalid(f"{self.file.name} ends early.", code="weights.short", hint="Fetch the model again.")
                target.write(piece)


def stored_tensors(folder: Path, stem: str) -> dict[str, StoredTensor]:
    """Every tensor of `<stem>.safetensors`, or of the shards that `<stem>.safetensors.index.json` lists."""
    return {name: tensor for file in weight_files(folder, stem) for name, tensor in read_header(file).items()}


def weight_files(folder: Path, stem: str = "model") -> list[Path]:
    """The safetensors files that hold a model, in order: the whole file where there is one, as whoever loads it takes it."""
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    is_sharded = index.is_file() and not whole.is_file()
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if is_sharded else {whole.name}
    wrong = sorted(name for name in names if Path(name).name != name or not (folder / name).is_file())
    if wrong:
        raise Invalid(
            f"{folder.name} has no file {wrong[0]}.",
            code="weights.missing",
            hint="Its weights must be complete and in safetensors format.",
        )
    return [folder / name for name in sorted(names)]


def read_header(file: Path) -> dict[str, StoredTensor]:
    with file.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        header: dict[str, Any] = json.loads(source.read(length))
    header.pop("__metadata__", None)
    if unknown := sorted({about["dtype"] for about in header.values()} - DTYPES.keys()):
        raise Invalid(
            f"{file.name} holds numbers of type {unknown[0]}, which cannot be merged.",
            code="weights.dtype",
            hint="Take the model in bf16, fp16 or fp32.",
        )
    return {name: _located(file, 8 + length, about) for name, about in header.items()}


def _located(file: Path, data_start: int, about: Mapping[str, Any]) -> StoredTensor:
    start, end = (data_start + offset for offset in about["data_offsets"])
    return StoredTensor(file, DTYPES[about["dtype"]], tuple(about["shape"]), start, end)


@dataclass(frozen=True)
class TensorJob:
    """One tensor to write: copied as it lies, or loaded, taken through its steps and rounded once to `dtype`."""

    name: str
    origin: StoredTensor
    dtype: torch.dtype
    steps: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = ()
    work_dtype: torch.dtype | None = None  # in which the steps run; its own where None

    @property
    def copied(self) -> bool:
        return not self.steps and self.dtype == self.origin.dtype

    def make(self) -> torch.Tensor:
        tensor = self.origin.load()
        tensor = tensor.to(self.work_dtype) if self.work_dtype else tensor
        for step in self.steps:
            tensor = step(tensor)
        return tensor.to(self.dtype)


def write_shard(path: Path, jobs: Iterable[TensorJob], on_tensor: Callable[[int], None]) -> dict[str, tuple[int, ...]]:
    """Write one file and return the shapes written. `on_tensor` hears the bytes of each tensor.

    Tensors go first, then the header into the room left for it: only then are all shapes known.
    """
    # Wide types first keep every tensor aligned without holes, as the library's own writer does.
    ordered = sorted(jobs, key=lambda job: (-job.dtype.itemsize, job.name))
    room = sum(len(json.dumps(job.name)) + HEADER_BYTES_A_TENSOR for job in ordered) // 8 * 8 + 64
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    with path.open("wb") as target:
        target.seek(8 + room)
        for job in ordered:
            start = target.tell()
            shape = _write_tensor(job, target)
            offsets = [start - 8 - room, target.tell() - 8 - room]
            header[job.name] = {"dtype": CODES[job.dtype], "shape": shape, "data_offsets": offsets}
            on_tensor(target.tell() - start)
        target.seek(0)
        target.write(struct.pack("<Q", room) + _filling(path, header, room))
    return {job.name: tuple(header[job.name]["shape"]) for job in ordered}


def _filling(path: Path, header: Mapping[str, Any], room: int) -> bytes:
    """The header, as long as the room that was left. One byte more would lie over the first tensor. Raises `Invalid`."""
    text = json.dumps(header).encode()
    if len(text) > room:
        raise Invalid(
            f"The tensors of {path.name} have too many dimensions to be written.",
            code="weights.header",
            hint="Fetch the model again.",
        )
    return text.ljust(room)


def is_finite(tensor: torch.Tensor) -> bool:
    """NaN wins both a minimum and a maximum; unlike `isfinite` this makes no tensors of its own."""
    return not tensor.numel() or all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))


def _write_tensor(job: TensorJob, target: BinaryIO) -> tuple[int, ...]:
    if job.copied:
        job.origin.copy(target)
        return job.origin.shape
    tensor = job.make()
    if not is_finite(tensor):
        raise Invalid(
            f"{job.name} is not finite after the merge.",
            code="merge.not_finite",
            hint="Training diverged, or the base's number type is too narrow: train again with a lower learning rate.",
        )
    target.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return tuple(tensor.shape)
