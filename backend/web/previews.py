"""What a model would read: asked of the rendering in its limited process. These block; call them in a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.core import bases
from backend.core.limited import run_limited
from backend.core.models import DatasetVersion, Json
from backend.core.settings import Settings
from backend.core.storage import storage

PREVIEW = "backend.core.rendering.preview:preview"
PREVIEW_SECONDS = 60


@dataclass(frozen=True)
class Lens:
    """Through which model, template and settings of `data` the rows are looked at."""

    model: str
    chat_template: str
    data: Json


def preview(settings: Settings, version: DatasetVersion, name: str, lens: Lens, offset: int, limit: int) -> Json:
    """Rows with each token marked. Raises `StudioError` where the model, its template or a row cannot be used."""
    base = bases.find_here(lens.model, None, settings)
    file = {"name": name, "version": version.number, "path": str(storage(settings).fetch(version.key))}
    payload: dict[str, Any] = {
        "model_folder": str(base.folder),
        "chat_template": lens.chat_template,
        "files": [file],
        "data": lens.data,
        "offset": offset,
        "limit": limit,
    }
    answer: Json = run_limited(PREVIEW, payload, timeout_seconds=PREVIEW_SECONDS)
    return answer
