"""The writer of safetensors against the library that reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.core.errors import Invalid
from worker.exports.tensors import TensorJob, stored_tensors, write_shard


def written_again(tensors: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """What the library reads of our copy of its own file."""
    save_file(tensors, folder / "model.safetensors")
    jobs = [TensorJob(name, origin, origin.dtype) for name, origin in stored_tensors(folder, "model").items()]
    write_shard(folder / "copy.safetensors", jobs, lambda _: None)
    return load_file(folder / "copy.safetensors")


@pytest.mark.parametrize("letter", ["a", "模", '"', "\n", "🦉"])
def test_names_of_any_letters_leave_the_header_its_room(letter: str, tmp_path: Path) -> None:
    tensors = {letter * 170 + str(number): torch.arange(64.0) + number for number in range(3)}
    again = written_again(tensors, tmp_path)
    assert {name: tensor.tolist() for name, tensor in again.items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


def test_a_header_that_finds_no_room_is_refused_and_lies_over_no_tensor(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="too many dimensions"):
        written_again({"deep": torch.zeros([1] * 64)}, tmp_path)
