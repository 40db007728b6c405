"""Base models: what lies here, what fits where, and what the hub has beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core import fits, hub
from backend.core.catalog import METHODS
from backend.core.errors import StudioError
from backend.core.fits import LENGTHS, ROWS, Load, key_of, short_title
from backend.core.forecast import Accelerator
from backend.core.memory import EXPLAINED
from backend.core.models import Operation, Run
from backend.core.operations import DOWNLOAD
from backend.web import base_models, reading
from backend.web.api.operations import cancel
from backend.web.contexts.models import ChosenModel, Download, HubSearch, ModelsPage, Place
from backend.web.deps import AnEdge, Edge
from backend.web.fetching import begin
from backend.web.pages.common import Form, draw, go
from backend.web.routers import page_router
from backend.web.shapes.models import BaseOut, HubModelOut

router = page_router()

FAILURES_SHOWN = timedelta(hours=12)
USUAL_PLACE = 3
"""24 GiB, where no worker is heard of."""
METHOD_TITLES = {each.model_fields["kind"].default: each.title for each in METHODS}


@dataclass(frozen=True)
class Choices:
    """What the page's address says, as it came."""

    on: str = ""
    model: str = ""
    method: str = ""
    rows: str = ""
    length: str = ""
    q: str = ""
    kind: str = ""
    fits: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Choices:
        return cls(**{name: query.get(name, "")[:400] for name in cls.__dataclass_fields__})

    @property
    def load(self) -> Load:
        usual = Load()
        rows = next((each for each in ROWS if str(each) == self.rows), usual.rows)
        return Load(rows, next((each for each in LENGTHS if str(each) == self.length), usual.length))

    def link(self, **changes: object) -> str:
        """The page's address with some choices exchanged; those that were not made are left out."""
        made = {**vars(self), **changes}
        query = urlencode({name: value for name, value in made.items() if value not in ("", None)})
        return f"/models?{query}" if query else "/models"


@router.get("/models")
async def models_page(request: Request, edge: AnEdge) -> Response:
    choices = Choices.of(request.query_params)
    found, searched = await asyncio.gather(edge.listed(base_models.base_outs, edge.settings), _asked(edge, choices.q))
    return draw(request, await edge.read(lambda session: _page(session, edge, choices, found, searched)))


@router.post("/models/download")
async def download(form: Form, edge: AnEdge) -> Response:
    await begin(edge, form.get("id", "")[:200])
    return go(_back(form))


@router.post("/models/downloads/{operation}/cancel")
async def cancel_download(operation: str, form: Form, edge: AnEdge) -> Response:
    await cancel(operation, edge)
    return go(_back(form))


def _back(form: Mapping[str, str]) -> str:
    """Where the form was: its choices, never an address of somebody's making."""
    return Choices.of(form).link(q="")


async def _asked(edge: Edge, words: str) -> tuple[list[hub.HubModel], StudioError | None]:
    try:
        return (await edge.asked(hub.find, words) if words.strip() else []), None
    except StudioError as error:
        return [], error


def _page(
    session: Session,
    edge: Edge,
    choices: Choices,
    found: Sequence[BaseOut],
    searched: tuple[list[hub.HubModel], StudioError | None],
) -> ModelsPage:
    real = sorted(base_models.accelerators(session), key=lambda each: each.on_cpu)
    places = [_place(each) for each in (*real, *fits.what_ifs())]
    on, load = _chosen_place(choices.on, places), choices.load
    models = base_models.with_fits(found, [on.accelerator], load)
    method = choices.method if choices.method in METHOD_TITLES else next(iter(METHOD_TITLES))
    return ModelsPage(
        models=models,
        roots=[str(root) for root in edge.settings.all_model_roots],
        places=places,
        on=on,
        methods=METHOD_TITLES,
        method=method,
        load=load,
        loads=(ROWS, LENGTHS),
        chosen=_chosen_model(session, choices, models, places, method),
        explained=EXPLAINED,
        downloads=_downloads(session, models),
        hub=_narrowed(
            choices, [base_models.hub_out(each, [on.accelerator], load) for each in searched[0]], searched[1]
        ),
        link=choices.link,
    )


def _place(accelerator: Accelerator) -> Place:
    return Place(key_of(accelerator), short_title(accelerator.title), accelerator)


def _chosen_place(key: str, places: Sequence[Place]) -> Place:
    """The one that is named; else the largest GPU that workers have, their CPU, or a usual size where there is no worker."""
    real = [each for each in places if each.accelerator.workers]
    usual = next((each for each in real if not each.accelerator.on_cpu), real[0] if real else places[USUAL_PLACE])
    return next((each for each in places if each.key == key), usual)


def _chosen_model(
    session: Session, choices: Choices, models: Sequence[BaseOut], places: Sequence[Place], method: str
) -> ChosenModel | None:
    """The model of the side panel: the one that is named, else the first that can be used."""
    usable = [each for each in models if each.problem is None]
    base = next((each for each in models if each.path == choices.model), usable[0] if usable else None)
    if base is None:
        return None
    rows = [(each, base_models.fit_outs(base.facts, [each.accelerator], choices.load)) for each in places]
    fit = next((each for each in base.fits if each.method == method), None)
    used = session.scalar(select(func.count()).select_from(Run).where(Run.model["path"].astext == base.path))
    return ChosenModel(base, rows, fit, used or 0)


def _downloads(session: Session, models: Sequence[BaseOut]) -> list[Download]:
    """Those that go on, and the newest of those that failed lately and were not made good since."""
    here = {each.path for each in models if each.problem is None}
    lately = Operation.ended_at > datetime.now(UTC) - FAILURES_SHOWN
    query = select(Operation).where(
        Operation.kind == DOWNLOAD, (Operation.state == "running") | ((Operation.state == "failed") & lately)
    )
    found: dict[str, Download] = {}
    for row in session.scalars(query.order_by(Operation.id.desc()).limit(20)):
        name: Any = row.input["id"]
        if row.state == "running" or name not in here:
            found.setdefault(name, Download(name, reading.operation_out(row)))
    return list(found.values())


def _narrowed(choices: Choices, results: Sequence[HubModelOut], error: StudioError | None) -> HubSearch:
    kept = [each for each in results if _is_wanted(each, choices)]
    problem = base_models.in_one(error) if error else None
    return HubSearch(choices.q, choices.kind, choices.fits, kept, len(results) - len(kept), problem)


def _is_wanted(model: HubModelOut, choices: Choices) -> bool:
    if choices.kind and model.kind != choices.kind:
        return False
    judged = [each for each in model.fits if choices.fits in ("any", each.method)]
    return not choices.fits or not model.fits or any(each.verdict != "too_big" for each in judged)
