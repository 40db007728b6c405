"""What fits where, for the accelerators that this studio's workers have. Pages and the API share it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session

from backend.core import fits, forecast
from backend.core.fits import Load
from backend.core.forecast import Accelerator
from backend.core.hub import HubModel
from backend.web import reading
from backend.web.shapes.common import Json, ProblemOut
from backend.web.shapes.models import BaseOut, FitOut, HubModelOut


def accelerators(session: Session) -> list[Accelerator]:
    """Those of workers that are heard of, the largest first."""
    alive = (worker for worker in reading.workers(session) if worker.is_alive)
    devices = ((worker.name, each.name, each.title, each.memory_bytes) for worker in alive for each in worker.devices)
    return list(forecast.accelerators(devices))


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
