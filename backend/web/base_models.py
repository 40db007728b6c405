"""Base models as pages and the API show them: those that lie here, those of the hub, and what fits where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session

from backend.core import bases, fits, forecast
from backend.core.errors import StudioError
from backend.core.fits import Load
from backend.core.forecast import Accelerator
from backend.core.hub import HubModel
from backend.core.settings import Settings
from backend.web import reading
from backend.web.shapes.common import Json, ProblemOut
from backend.web.shapes.models import BaseOut, FitOut, HubModelOut
from backend.web.shapes.studio import WorkerOut


def base_outs(settings: Settings) -> list[BaseOut]:
    """The base models under the model roots, those that cannot be used with the reason."""
    return [base_out(each) for each in bases.list_bases(settings)]


def base_out(listed: bases.Listed) -> BaseOut:
    refusal = listed.problem
    return BaseOut(
        path=listed.path,
        revision=listed.revision,
        kind=fits.kind_of(listed.path, chat_template=bool(listed.facts and listed.facts.chat_template)),
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
    found = bases.find_here(path, revision, settings)
    kind = fits.kind_of(path, chat_template=found.facts.chat_template)
    return BaseOut(path=path, revision=found.revision, kind=kind, facts=found.facts.as_json())


def accelerators(session: Session) -> list[Accelerator]:
    return list(accelerators_of(reading.workers(session)))


def accelerators_of(workers: Iterable[WorkerOut]) -> tuple[Accelerator, ...]:
    """Those of workers that are heard of, the largest first."""
    alive = (worker for worker in workers if worker.is_alive)
    devices = ((worker.name, each.name, each.title, each.memory_bytes) for worker in alive for each in worker.devices)
    return forecast.accelerators(devices)


def fit_outs(facts: Json, among: Iterable[Accelerator], load: Load) -> list[FitOut]:
    return [FitOut.model_validate(fit) for each in among for fit in fits.fits(facts, each, load)]


def with_fits(models: Sequence[BaseOut], among: Sequence[Accelerator], load: Load) -> list[BaseOut]:
    """The same models, each with its fits."""
    return [each.model_copy(update={"fits": fit_outs(each.facts, among, load)}) for each in models]


def hub_out(model: HubModel, among: Sequence[Accelerator], load: Load) -> HubModelOut:
    problem = ProblemOut.model_validate(model.problem.as_json()) if model.problem else None
    told = {name: getattr(model, name) for name in HubModelOut.model_fields if hasattr(model, name)}
    kind = fits.kind_of(model.id, chat_template=bool(model.facts.get("chat_template")))
    return HubModelOut.model_validate(
        told | {"kind": kind, "problem": problem, "fits": fit_outs(model.facts, among, load)}
    )
