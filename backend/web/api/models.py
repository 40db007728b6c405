"""Base models: what lies here, what the hub has, what fits where, and downloads."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response
from pydantic import Field

from backend.core import fits, hub, operations
from backend.core.fits import Load
from backend.core.forecast import Accelerator
from backend.core.strict import Strict
from backend.web import base_models
from backend.web.deps import AnEdge
from backend.web.fetching import begin
from backend.web.routers import api_router
from backend.web.shapes.datasets import OperationOut
from backend.web.shapes.models import BaseOut, FitOut, HubModelOut

router = api_router("/models", "models")

Rows = Annotated[int, Query(ge=1, le=4096, description="Rows at once.")]
Length = Annotated[int, Query(ge=8, le=1_048_576, description="Tokens of the longest row.")]
ModelPath = Annotated[str, Query(min_length=1, max_length=400, description="A folder's name, or a hub id.")]


class ToDownload(Strict):
    """A model of the hub that is to be fetched."""

    id: str = Field(min_length=1, max_length=200, examples=["Qwen/Qwen3-0.6B"], description="Its id on the hub.")
    revision: str | None = Field(
        None, max_length=100, description="Commit, branch or tag; the newest commit of the main branch is taken."
    )


@router.get("")
async def list_models(edge: AnEdge) -> list[BaseOut]:
    """Every model folder under the model roots, and what was downloaded; those that cannot be used say why."""
    found = await edge.listed(base_models.base_outs, edge.settings)
    return base_models.with_fits(found, await edge.read(base_models.accelerators), Load())


@router.get("/inspect")
async def inspect(
    edge: AnEdge,
    path: ModelPath,
    revision: Annotated[str | None, Query(max_length=100, description="The commit, of a model of the hub.")] = None,
) -> BaseOut:
    """Look at one model that lies here, under a model root or in the hub's cache. Looking downloads nothing."""
    return await edge.apart(base_models.inspected, edge.settings, path, revision)


@router.get("/fit")
async def fit(edge: AnEdge, model: ModelPath, rows: Rows = 1, length: Length = 2048) -> list[FitOut]:
    """About how much memory each method needs for a model that lies here, on each accelerator and on usual sizes.

    Empty where the model's shape is not known. The preflight of a run reckons with its own settings and data.
    """
    base = await edge.apart(base_models.inspected, edge.settings, model)
    among = [*await edge.read(base_models.accelerators), *fits.what_ifs()]
    return base_models.fit_outs(base.facts, among, Load(rows, length))


@router.get("/search")
async def search(
    edge: AnEdge,
    q: Annotated[str, Query(min_length=1, max_length=200, description="Words, an id, or a model's address.")],
) -> list[HubModelOut]:
    """What the hub has under these words, the most downloaded first: size, licence and fit before any download."""
    among: list[Accelerator] = await edge.read(base_models.accelerators)
    found = await edge.asked(hub.find, q)
    return [base_models.hub_out(each, among, Load()) for each in found]


@router.post("/download", status_code=202)
async def download(wanted: ToDownload, edge: AnEdge, response: Response) -> OperationOut:
    """Fetch a model from the hub at its commit, as an operation. One that is on its way already is not begun again, and no other
    commit of it beside that."""
    operation = await begin(edge, wanted.id, wanted.revision)
    response.headers["Location"] = operations.address_of(operation.id)
    return operation
