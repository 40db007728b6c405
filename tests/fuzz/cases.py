"""One attempt at a reader: a folder, chance, and what most of them are tried with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.mutation import Mutator

RECIPE = {
    "name": "owls",
    "model": {"path": "tiny", "chat_template": "auto"},
    "stage": "sft",
    "data": {"sets": [{"name": "owls", "version": 1, "weight": 0.5}, "more"], "max_length": 128, "truncation": "drop"},
    "method": {"kind": "lora", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "training": {"learning_rate": 1e-4, "max_steps": 20, "warmup_ratio": 0.1, "per_device_train_batch_size": "auto"},
    "evaluation": {"prompts": ["Hi?"], "eval_share": 0.1},
    "saving": {"save_steps": 10},
}


@dataclass(frozen=True)
class Case:
    """One attempt: a folder of its own, chance of its own, and a base model's folder that is whole."""

    folder: Path
    chance: Mutator
    base: Path

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def pick(self, choices: tuple[Any, ...]) -> Any:
        return self.chance.draw.choice(choices)

    def model(self) -> Path:
        """A copy of the base to break. The weights are a link to the same bytes, since most cases leave them alone."""
        made = self.folder / "model"
        shutil.copytree(self.base, made, copy_function=lambda source, target: Path(target).hardlink_to(source))
        return made

    def replace(self, path: Path, data: bytes) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(data)


def sendable(value: Any) -> Any:
    """What a reader returns goes into answers and into Postgres, which take neither lone surrogates nor NUL."""
    json.dumps(value, ensure_ascii=False, default=str, allow_nan=False).encode()
    assert not any("\0" in text for text in texts_in(value)), "a NUL, which Postgres refuses"
    return value


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    if isinstance(value, dict):
        yield from (text for pair in value.items() for each in pair for text in texts_in(each))
    if isinstance(value, list | tuple):
        yield from (text for each in value for text in texts_in(each))


def mutator(seed: int, number: int) -> Mutator:
    """Chance for one case, the same whenever it is asked for."""
    return Mutator(seed * 1_000_003 + number)
