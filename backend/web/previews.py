"""What a model would read: asked of the rendering in its limited process. These block; call them in a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.core import bases
from backend.core.errors import StudioError
from backend.core.fits import kind_of
from backend.core.limited import run_limited
from backend.core.models import DatasetVersion, Json
from backend.core.recipe import ModelChoice
from backend.core.settings import Settings
from backend.core.storage import storage
from backend.web.shapes.common import ProblemOut
from backend.web.shapes.models import BaseOut

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
    choice = ModelChoice.model_validate({"path": lens.model, "chat_template": lens.chat_template})
    base = bases.find_here(choice, settings)
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


def base_outs(settings: Settings) -> list[BaseOut]:
    """The base models under the model roots, those that cannot be used with the reason."""
    return [base_out(each) for each in bases.list_bases(settings)]


def base_out(listed: bases.Listed) -> BaseOut:
    refusal = listed.problem
    return BaseOut(
        path=listed.path,
        revision=listed.revision,
        kind=kind_of(listed.path, chat_template=bool(listed.facts and listed.facts.chat_template)),
        facts=listed.facts.as_json() if listed.facts else {},
        problem=in_one(refusal) if refusal else None,
    )


def in_one(refusal: StudioError) -> ProblemOut:
    """A refusal as one line: its own words and those of its problems."""
    words = (
        refusal.message,
        *(f"{each.where}: {each.message}" if each.where else each.message for each in refusal.problems),
    )
    hints = (refusal.hint, *(each.hint for each in refusal.problems))
    hint = next((each for each in hints if each), None)
    return ProblemOut(code=refusal.code, message=" ".join(words), where=refusal.where or None, hint=hint)


def inspected(settings: Settings, path: str, revision: str | None = None) -> BaseOut:
    """One model that lies here: nothing is downloaded. Raises `StudioError` where it does not, or cannot be used."""
    found = bases.find_here(ModelChoice(path=path, revision=revision), settings)
    kind = kind_of(path, chat_template=found.facts.chat_template)
    return BaseOut(path=path, revision=found.revision, kind=kind, facts=found.facts.as_json())
