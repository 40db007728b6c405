"""One data set: its rows as a model would read them."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from backend.core.datasets import store
from backend.core.errors import StudioError
from backend.core.storage import storage
from backend.web import previews, reading
from backend.web.api.datasets import ModelPath, Template
from backend.web.contexts import DatasetPage, PreviewPart
from backend.web.deps import AnEdge
from backend.web.failures import problem_out
from backend.web.pages.common import draw
from backend.web.shapes import ProblemOut

router = APIRouter()

ROWS_SHOWN = 20
PREVIEWED = 5


@router.get("/datasets/{name}")
async def dataset_page(
    request: Request,
    name: str,
    edge: AnEdge,
    version: int | None = None,
    model: str = "",
    chat_template: Template = "auto",
) -> Response:
    found = await edge.read(lambda session: store.version(session, name, version))
    detail = await edge.read(lambda session: reading.dataset_detail(session, store.find(session, name)))
    rows = await asyncio.to_thread(store.rows, storage(edge.settings), found, 0, ROWS_SHOWN)
    models = await asyncio.to_thread(previews.base_outs, edge.settings)
    usable = [base.path for base in models if base.problem is None]
    page = DatasetPage(
        dataset=detail,
        number=found.number,
        models=models,
        model=model or next(iter(usable), ""),
        chat_template=chat_template,
        rows=[reading.row_out(row) for row in rows],
    )
    return draw(request, page)


@router.get("/datasets/{name}/preview")
async def preview_part(
    request: Request,
    name: str,
    edge: AnEdge,
    model: ModelPath = "",
    chat_template: Template = "auto",
    version: int | None = None,
    offset: int = 0,
) -> Response:
    """What stands in the way of a preview is told in its place, so the answer is a part with status 200."""
    found = await edge.read(lambda session: store.version(session, name, version))
    offset = max(0, min(offset, found.rows - 1))
    preview, error, problems = None, None, []
    if model:
        try:
            lens = previews.Lens(model, chat_template, {})
            arguments = (edge.settings, found, name, lens, offset, PREVIEWED)
            preview = await asyncio.to_thread(previews.preview, *arguments)
        except StudioError as refusal:
            error = problem_out(refusal)
            problems = [ProblemOut.model_validate(problem) for problem in refusal.problems]
    part = PreviewPart(
        dataset=name,
        number=found.number,
        model=model,
        chat_template=chat_template,
        offset=offset,
        limit=PREVIEWED,
        total=found.rows,
        preview=preview,
        error=error,
        problems=problems,
    )
    return draw(request, part)
