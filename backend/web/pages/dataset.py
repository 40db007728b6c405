"""One data set: its rows as a model would read them, what every cut costs, what may be wrong, and its versions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core.datasets import store
from backend.core.datasets.differing import differ
from backend.core.models import DatasetVersion, Json
from backend.web import base_models, inspecting, measuring, reading
from backend.web.api.dataset import mend_version
from backend.web.contexts.datasets import DatasetPage, MeasuredPart, PreviewPart, QualityPart, VerdictPart, VersionsPage
from backend.web.deps import AnEdge, Edge
from backend.web.inspecting import Panel
from backend.web.lineages import VersionLine, version_lines
from backend.web.looking import ALook, Look, whole
from backend.web.measuring import Found, Measured
from backend.web.pages.common import Form, draw, go
from backend.web.routers import page_router
from backend.web.shapes.datasets import DatasetOut

router = page_router()

SKIPPED_SHOWN = 20


@dataclass(frozen=True)
class Standing:
    """What the database says of the data set that is looked at."""

    dataset: DatasetOut
    version: DatasetVersion
    history: list[VersionLine]

    @property
    def line(self) -> VersionLine:
        return next(each for each in self.history if each.number == self.version.number)


async def standing(edge: Edge, look: Look) -> Standing:
    def work(session: Session) -> Standing:
        found = store.version(session, look.name, look.version)
        dataset = store.find(session, look.name)
        lines = version_lines(session, dataset.id)
        return Standing(reading.dataset_out(session, dataset), found, lines)

    return await edge.read(work)


@router.get("/datasets/{name}")
async def dataset_page(request: Request, edge: AnEdge, look: ALook, made: bool = False) -> Response:
    given = await standing(edge, look)
    models = await edge.listed(base_models.base_outs, edge.settings)
    usable = [base.path for base in models if base.problem is None]
    look = replace(look, name=given.dataset.name, model=look.model or next(iter(usable), ""))
    panel, measured, found = await parts(edge, given.version, look, wait=look.wait)
    page = DatasetPage(
        dataset=given.dataset,
        look=look,
        version=given.line,
        history=given.history,
        models=models,
        skipped=skipped_rows(given.version),
        made=made,
        panel=panel,
        measured=measured,
        found=found,
    )
    return draw(request, page)


async def parts(edge: Edge, version: DatasetVersion, look: Look, *, wait: bool) -> tuple[Panel, Measured, Found]:
    """What the page shows of the rows. With `wait` all of it; without, what is known by now."""
    seconds = None if wait else 0.0
    if wait:
        measured = await measuring.measure(edge, version, look, None)
    else:
        measured = await asyncio.to_thread(measuring.measured, edge.settings, version, look)
    found = await measuring.find(edge, version, seconds)
    return await rows_panel(edge, version, look, measured, found, wait=wait), measured, found


async def rows_panel(
    edge: Edge, version: DatasetVersion, look: Look, measured: Measured, found: Found, *, wait: bool
) -> Panel:
    def work() -> Panel:
        return inspecting.panel(edge.settings, version, look, measured.whole, found.findings, wait=wait)

    panel = await (edge.apart(work) if wait or look.q else asyncio.to_thread(work))
    if coming := inspecting.ahead(edge, version, look, panel):
        edge.studio.spawn(coming)
    return panel


def skipped_rows(version: DatasetVersion) -> list[Json]:
    return list(version.facts.get("problems", []))[:SKIPPED_SHOWN]


@router.get("/datasets/{name}/preview")
async def preview_part(request: Request, edge: AnEdge, look: ALook) -> Response:
    """What stands in the way of a preview is told in its place, so the answer is a part with status 200."""
    version = await edge.read(lambda session: store.version(session, look.name, look.version))
    measured = await asyncio.to_thread(measuring.measured, edge.settings, version, look)
    found = await measuring.find(edge, version, 0.0)
    panel = await rows_panel(edge, version, look, measured, found, wait=True)
    if measured.is_waiting and not panel.error:  # lengths may have become known while the rows were read
        measured = await asyncio.to_thread(measuring.measured, edge.settings, version, look)
        panel = await rows_panel(edge, version, look, measured, found, wait=True)
    return draw(request, PreviewPart(look, panel, measured, found))


@router.get("/datasets/{name}/measured")
async def measured_part(request: Request, edge: AnEdge, look: ALook) -> Response:
    version = await edge.read(lambda session: store.version(session, look.name, look.version))
    return draw(request, MeasuredPart(look, await measuring.measure(edge, version, look)))


@router.get("/datasets/{name}/verdict")
async def verdict_part(request: Request, edge: AnEdge, look: ALook) -> Response:
    version = await edge.read(lambda session: store.version(session, look.name, look.version))
    measured = await asyncio.to_thread(measuring.measured, edge.settings, version, look)
    return draw(request, VerdictPart(look, measured))


@router.get("/datasets/{name}/quality")
async def quality_part(request: Request, edge: AnEdge, look: ALook) -> Response:
    version = await edge.read(lambda session: store.version(session, look.name, look.version))
    found = await measuring.find(edge, version)
    skipped = int(version.facts.get("skipped", 0))
    return draw(request, QualityPart(look, found, skipped_rows(version), skipped))


@router.post("/datasets/{name}/mend")
async def mend(name: str, form: Form, edge: AnEdge) -> Response:
    """The new version is shown through the lens that was looked through."""
    made = await mend_version(edge, name, whole(form.get("version", "")), form.get("cleaner", ""))
    look = Look(name, version=made.number, model=form.get("model", ""))
    return go(f"{look.link()}&made=1")


@router.get("/datasets/{name}/compare")
async def versions_page(request: Request, edge: AnEdge, look: ALook, before: int = 1, after: int = 0) -> Response:
    given = await standing(edge, look)

    def work(session: Session) -> tuple[DatasetVersion, DatasetVersion]:
        return (
            store.version(session, look.name, before),
            store.version(session, look.name, after or None),
        )

    old, new = await edge.read(work)
    difference = await edge.apart(differ, edge.settings, old, new)
    lines = {each.number: each for each in given.history}
    page = VersionsPage(given.dataset, lines[old.number], lines[new.number], given.history, difference)
    return draw(request, page)
