"""Attempts: a folder with an assignment, run by a real trainer process, and its journal read back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backend.core.assignment import ASSIGNMENT, CONTROL, JOURNAL, Assignment, Checkpoint, Word
from tests.support.rows import chat_rows, write_rows
from tests.support.trainers import Trainers

WATCHED = {"loss", "grad_norm", "learning_rate", "trained_tokens", "eval_loss"}
"""What must not differ between equal runs; speed and memory may."""


@dataclass
class Attempt:
    """One attempt's folder."""

    folder: Path
    trainers: Trainers

    def run(self, **options: Any) -> int:
        return self.trainers.run(self.folder / ASSIGNMENT, **options)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / JOURNAL).read_text().splitlines()]

    def data(self, kind: str) -> list[dict[str, Any]]:
        return [line["data"] | {"step": line["step"]} for line in self.lines if line["kind"] == kind]

    @property
    def end(self) -> dict[str, Any]:
        assert self.lines[-1]["kind"] == "end"
        data: dict[str, Any] = self.lines[-1]["data"]
        return data

    def losses(self) -> dict[int, str]:
        """Training losses by step, as float hex."""
        return {m["step"]: float(m["values"]["loss"]).hex() for m in self.data("metrics") if "loss" in m["values"]}

    def history(self) -> dict[tuple[int, str], str]:
        """Everything that equal runs must agree on, exactly."""
        numbers = {
            (metric["step"], name): float(value).hex()
            for metric in self.data("metrics")
            for name, value in metric["values"].items()
            if name in WATCHED
        }
        samples = {(s["step"], f"sample {s['index']}"): s["text"] for s in self.data("sample")}
        return numbers | samples

    def checkpoint(self, step: int) -> Checkpoint:
        return Checkpoint(folder=self.folder / f"checkpoints/checkpoint-{step}", step=step, attempt=1)

    @property
    def saved_steps(self) -> list[int]:
        return sorted(int(path.name.split("-")[1]) for path in self.folder.glob("checkpoints/checkpoint-*"))

    def tell(self, **line: Any) -> None:
        with open(self.folder / CONTROL, "a") as file:
            file.write(json.dumps(line) + "\n")

    def order(self, word: Word) -> None:
        self.tell(kind="order", word=word.value)


class Attempts:
    """Makes attempts on one base and one data set; a test names only what differs from a short run that watches all."""

    def __init__(self, base: Path, folder: Path, trainers: Trainers) -> None:
        self.base, self.folder, self.trainers, self.count = base, folder, trainers, 0
        self.data = write_rows(folder / "rows.parquet", chat_rows(40))

    def __call__(self, recipe: dict[str, dict[str, Any]] | None = None, **assignment: Any) -> Attempt:
        self.count += 1
        folder = self.folder / f"attempt-{self.count}"
        folder.mkdir()
        given = {
            "run": "a-run",
            "attempt": self.count,
            "folder": folder,
            "model_folder": self.base,
            "data": [{"name": "rows", "version": 1, "path": self.data}],
            "recipe": _recipe(recipe or {}),
        }
        text = Assignment.model_validate(given | assignment).model_dump_json()
        (folder / ASSIGNMENT).write_text(text)
        return Attempt(folder, self.trainers)


def _recipe(changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    recipe: dict[str, dict[str, Any]] = {
        "model": {"path": "tiny"},
        "data": {"sets": [{"name": "rows"}]},
        "method": {"kind": "lora", "r": 4, "lora_dropout": 0.05},
        "training": {
            "learning_rate": 1e-3,
            "max_steps": 10,
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 3,
        },
        "evaluation": {
            "eval_share": 0.1,
            "eval_steps": 4,
            "sample_steps": 4,
            "prompts": ["What does the owl eat?"],
            "max_new_tokens": 6,
            "temperature": 1.0,
        },
        "saving": {"save_steps": 4},
    }
    for group, settings in changes.items():
        recipe[group] = settings if "kind" in settings else recipe[group] | settings
    return recipe


@pytest.fixture(scope="session")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainers]:
    trainers = Trainers(tmp_path_factory.mktemp("run"))
    yield trainers
    trainers.stop()


@pytest.fixture
def attempts(tiny_base: Path, tmp_path: Path, trainers: Trainers) -> Iterator[Attempts]:
    yield Attempts(tiny_base, tmp_path, trainers)
    shutil.rmtree(tmp_path, ignore_errors=True)
