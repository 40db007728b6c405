"""What a run trains on, brought to this host: the base model's folder and the pinned data-set versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.core.bases import locate
from backend.core.models import Run
from backend.core.recipe import ModelChoice
from backend.core.settings import Settings
from backend.core.storage import storage


@dataclass(frozen=True)
class Inputs:
    """`data` has the fields of `assignment.DataFile`."""

    model_folder: Path
    data: tuple[dict[str, Any], ...]


def fetch_inputs(settings: Settings, run: Run) -> Inputs:
    """May download: run it off the main thread. Raises `StudioError` where something is not to be had."""
    choice = ModelChoice(path=run.model["path"], revision=run.model.get("revision"))
    files = storage(settings)
    data = tuple(
        {
            "name": each["name"],
            "version": each["version"],
            "path": files.fetch(each["key"]),
            "weight": each.get("weight"),
        }
        for each in run.data
    )
    return Inputs(locate(choice, settings), data)
