"""A checkpoint is written beside, hashed, synced and renamed: it is there whole or not at all, and never written again."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME

from backend.core.assignment import CHECKPOINTS, JOURNAL, LineKind
from backend.core.checkpoints import manifest_sha256, publish, read_state, verify, write_manifest
from worker.trainer.journal import Journal, strict
from worker.trainer.loading import Loaded

STATE = "studio.json"
"""What we add to transformers' own files: how far the run is, its recipe, its data and what it computed with."""


@dataclass
class Progress:
    """What a resumed run must know beside weights, optimizer, scheduler and random states."""

    trained_tokens: int = 0
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The first and the last finite value of each."""
    best_eval_loss: float | None = None
    measurements_without_gain: int = 0
    owes_measurement: bool = False
    owes_answers_from: int | None = None
    """What a pause cut off at this step, and a resume makes up for: `eval_loss`, the answers from a prompt on."""
    is_complete: bool = False
    """Nothing is left to train: all steps are done, or early stopping ended the run."""

    def note(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self.metrics[name] = (self.metrics.get(name, (value, value))[0], value)


def save_checkpoint(
    trainer: Trainer, loaded: Loaded, attempt: Path, journal: Journal, state: Mapping[str, Any]
) -> Path:
    """Write and publish `checkpoints/checkpoint-<step>`, then tell the journal. A half-written one is cleared away."""
    step = trainer.state.global_step
    final = attempt / CHECKPOINTS / f"checkpoint-{step}"
    temporary = final.with_name(f".tmp-{final.name}-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        _write(trainer, loaded, temporary)
        (temporary / STATE).write_text(json.dumps(strict(state), indent=1, allow_nan=False), encoding="utf-8")
        journal.copy_to(temporary / JOURNAL)
        manifest = write_manifest(temporary, step)
        publish(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    where = final.relative_to(attempt).as_posix()
    entry = {"folder": where, "manifest_sha256": manifest_sha256(final), "bytes": manifest.bytes}
    journal.emit(LineKind.CHECKPOINT, entry)
    return final


def _write(trainer: Trainer, loaded: Loaded, folder: Path) -> None:
    """Weights in safetensors, and the files that transformers' own resume reads."""
    config = loaded.model.config
    config.use_cache = loaded.use_cache
    loaded.model.save_pretrained(folder)
    config.use_cache = False
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card; the exported adapter gets a real one
    trainer._save_optimizer_and_scheduler(str(folder))
    trainer._save_scaler(str(folder))
    trainer._save_rng_state(str(folder))
    trainer.state.save_to_json(str(folder / TRAINER_STATE_NAME))


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """What `state_of` stored. Raises `OSError` for a checkpoint that is not whole, so that another one is tried."""
    if problems := verify(folder):
        raise OSError(f"{folder.name} cannot be used: " + " ".join(map(str, problems)))
    return read_state(folder, STATE)


def progress_in(state: Mapping[str, Any]) -> Progress:
    """Where a run stood."""
    stored = state["progress"]
    progress = Progress(**{each.name: stored[each.name] for each in fields(Progress) if each.name in stored})
    progress.metrics = {name: (first, last) for name, (first, last) in progress.metrics.items()}
    return progress


def state_of(progress: Progress, **facts: Any) -> dict[str, Any]:
    return {"v": 1, "progress": asdict(progress), **facts}


def is_finite(model: torch.nn.Module) -> bool:
    """Whether every trained weight is a number."""
    return all(bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad)
