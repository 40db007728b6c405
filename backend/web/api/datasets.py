"""Data sets: send a file, see what a model would read of it, keep every version."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Query, Request
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from backend.core import operations, people, uploads
from backend.core.datasets import probe, store
from backend.core.errors import Invalid, StudioError, Unavailable
from backend.core.models import Dataset
from backend.core.storage import storage
from backend.web import previews, reading
from backend.web.bodies import body_of
from backend.web.deps import AnEdge, Edge, Offset, may_change
from backend.web.routers import api_router
from backend.web.shapes.common import LARGEST, MOST
from backend.web.shapes.datasets import DatasetDetailOut, DatasetOut, OperationOut, PreviewOut, ProbeOut, RowsOut

router = api_router("/datasets", "data sets")

MIB, GIB = 1 << 20, 1 << 30

DatasetName = Annotated[str, Path(max_length=300, description="The data set's name or id.", examples=["alpaca"])]
Version = Annotated[int | None, Query(ge=1, le=MOST, description="The version's number; the newest by default.")]
ModelPath = Annotated[str, Query(max_length=400, description="Whose tokenizer reads it.", examples=["stories260k"])]
Template = Literal["auto", "chatml", "llama3", "zephyr", "plain"]

FILE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself: JSONL, a JSON array, CSV, TSV, Parquet or text, also gzipped.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
HEAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The first bytes of the file, at most 256 KiB.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
COLUMNS = TypeAdapter(dict[str, Annotated[str, Field(max_length=300)]])
FormatName = Annotated[str | None, Query(max_length=40, description="The shape, where the guess is wrong.")]
Columns = Annotated[
    str,
    Query(
        max_length=4000,
        description="Which column plays which role, as JSON; an empty one leaves an optional role out.",
        examples=['{"prompt": "Question", "completion": "Answer"}'],
    ),
]
UPLOADED: dict[int | str, dict[str, Any]] = {
    202: {"model": OperationOut, "description": "A large file: it is read in the background; follow the operation."}
}


@router.put("/{name}", status_code=201, responses=UPLOADED, openapi_extra=FILE_BODY, response_model=DatasetDetailOut)
async def put(
    name: DatasetName,
    request: Request,
    edge: AnEdge,
    filename: Annotated[str, Query(max_length=255, description="What the file is called; it is only shown.")] = "",
    format: FormatName = None,
    columns: Columns = "",
    skip_bad_rows: Annotated[bool, Query(description="Leave out rows with problems, and say which.")] = False,
) -> Any:
    """Send a file as a new data set, or as the next version of one. It is streamed, hashed, checked and normalised;
    every problem comes back at once, by row. The same content again gives the same version."""
    store.check_name(name)  # before the body: what will be refused need not cost an upload
    chosen = {"format": format, "columns": columns_of(columns), "skip_bad_rows": skip_bad_rows}
    await edge.read(lambda session: check_owner(session, edge, name))
    limit = int(edge.settings.upload_limit_gib * GIB)
    async with body_of(request) as body:
        received = await uploads.receive(body, edge.settings.folder("uploads"), limit)
    return await take_in_once(edge, store.upload(name, filename or name, received, **chosen, owner_id=edge.who.id))


def columns_of(text: str) -> dict[str, str] | None:
    """Role → column out of its JSON. Raises `Invalid`."""
    if not text:
        return None
    try:
        return COLUMNS.validate_json(text)
    except ValidationError:
        raise Invalid(
            "The choice of columns is no JSON object of texts.",
            hint='Write it as {"output": "Answer"}: the role, then its column.',
            where="columns",
            code="columns",
        ) from None


@router.post("/probe", openapi_extra=HEAD_BODY)
async def look(
    request: Request,
    edge: AnEdge,
    filename: Annotated[str, Query(max_length=255, description="What the file is called; its ending counts.")],
    size: Annotated[int, Query(ge=0, le=LARGEST, description="Bytes of the whole file.")],
    format: FormatName = None,
    columns: Columns = "",
) -> ProbeOut:
    """Look at the beginning of a file before sending it: its shape, its columns with examples, the first rows as they would
    be read, and what is wrong with them. Nothing is kept."""
    choice = columns_of(columns)
    async with body_of(request) as body:
        head = await uploads.receive(body, edge.settings.folder("uploads"), probe.HEAD_BYTES)
    glimpse = probe.Glimpse(str(head.path), filename, max(size, head.bytes), format, choice)
    try:
        found = await edge.apart(probe.probe, glimpse)
    finally:
        head.path.unlink(missing_ok=True)
    error = found["error"] and edge.studio.renderer.told(request, found["error"])
    return ProbeOut.model_validate(edge.studio.renderer.told(request, found | {"error": error}))


async def take_in_once(edge: Edge, upload: store.Upload) -> DatasetDetailOut | Response:
    """Take in a file that came in one piece: whoever sent it has to send it again where that fails, so nothing of it stays but
    what an operation reads."""
    is_needed = False
    try:
        taken = await take_in(edge, upload)
        is_needed = isinstance(taken, Response)
        return taken
    except BaseException as error:
        # Where the answer of Postgres is missing, the operation may stand: the file is then left to it, or to the sweep.
        is_clear = isinstance(error, StudioError) and not isinstance(error, Unavailable)
        is_needed = is_large(edge, upload) and not is_clear
        raise
    finally:
        if not is_needed:
            upload.path.unlink(missing_ok=True)


def is_large(edge: Edge, upload: store.Upload) -> bool:
    """Whether nobody is to wait for its reading."""
    return upload.bytes > edge.settings.inline_mib * MIB


async def take_in(edge: Edge, upload: store.Upload) -> DatasetDetailOut | Response:
    """A small file is read at once, and then no longer needed; a large one by an operation, answered with 202, which removes
    it."""
    if is_large(edge, upload):
        return await in_background(edge, upload)
    await edge.read(lambda session: check_owner(session, edge, upload.name))
    prepared = await edge.apart(store.prepare, upload, edge.settings)

    def work(session: Session) -> DatasetDetailOut:
        version = store.commit_version(session, upload, prepared)
        # It may be new, and another's, by now.
        may_change(edge.who, session.get_one(Dataset, version.dataset_id).owner_id)
        people.audit(session, edge.who.id, "dataset.upload", upload.name, version=version.number)
        return reading.dataset_detail(session, store.find(session, upload.name))

    return await edge.write(work)


def check_owner(session: Session, edge: Edge, name: str) -> UUID | None:
    """A new version of somebody else's data set is not for everybody. The id of the one that stands, where this may be."""
    standing = store.newest(session, name)
    if standing is None:
        return None
    may_change(edge.who, session.get_one(Dataset, standing.dataset_id).owner_id)
    return standing.dataset_id


async def in_background(edge: Edge, upload: store.Upload) -> Response:
    def work(session: Session) -> OperationOut:
        row = operations.begin(session, replace(upload, dataset_id=check_owner(session, edge, upload.name)))
        people.audit(session, edge.who.id, "dataset.upload", upload.name)
        session.refresh(row)
        return reading.operation_out(row)

    await asyncio.to_thread(uploads.settle, upload.path)
    operation = await edge.write(work)
    edge.studio.operations.submit(operation.id)
    headers = {"Location": operations.address_of(operation.id)}
    return JSONResponse(operation.model_dump(mode="json"), 202, headers)


@router.get("")
async def list_datasets(
    edge: AnEdge,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
    offset: Offset = 0,
    q: Annotated[str, Query(max_length=100, description="Words in the name, or in a column's.")] = "",
    format: FormatName = None,
    sort: Annotated[store.Sort, Query(description="The order.")] = "changed",
    name: Annotated[str, Query(max_length=300, description="The one of exactly this name, if it is there.")] = "",
) -> list[DatasetOut]:
    """Data sets with their newest versions, those that changed last first."""
    wanted = store.Narrowed(q, format or "", sort, name)
    return await edge.read(partial(reading.dataset_outs, limit=limit, offset=offset, wanted=wanted))


@router.get("/{name}")
async def get(name: DatasetName, edge: AnEdge, version: Version = None) -> DatasetDetailOut:
    return await edge.read(lambda session: reading.dataset_detail(session, store.find(session, name), version))


@router.get("/{name}/rows")
async def rows(
    name: DatasetName,
    edge: AnEdge,
    version: Version = None,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
) -> RowsOut:
    """Rows as they were normalised: `limit` of them, or fewer where they are long, for a page ends at about 8 MiB. `next` is
    the `offset` of the page behind it."""
    found = await edge.read(lambda session: store.version(session, name, version))
    page = await asyncio.to_thread(store.rows, storage(edge.settings), found, offset, limit)
    behind = offset + len(page)
    is_last = not page or behind >= found.rows
    return RowsOut(rows=[reading.row_out(row) for row in page], total=found.rows, next=None if is_last else behind)


@router.get("/{name}/preview")
async def preview(
    name: DatasetName,
    edge: AnEdge,
    model: ModelPath,
    version: Version = None,
    chat_template: Template = "auto",
    max_length: Annotated[int | None, Query(ge=8, le=1_048_576)] = None,
    assistant_only_loss: bool = True,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=50)] = 10,
) -> PreviewOut:
    """Rows as the model would read them, each token marked: learned, only read, special or cut. The trainer uses the
    same function."""
    found = await edge.read(lambda session: store.version(session, name, version))
    data = {"assistant_only_loss": assistant_only_loss} | ({"max_length": max_length} if max_length else {})
    lens = previews.Lens(model, chat_template, data)
    marked = await edge.apart(previews.preview, edge.settings, found, name, lens, offset, limit)
    return PreviewOut.model_validate(marked)


@router.delete("/{name}", status_code=204)
async def delete(name: DatasetName, edge: AnEdge) -> None:
    """It can be brought back. Refused while a run that has not ended needs it."""
    await edge.write(lambda session: remove(session, edge, name))


def remove(session: Session, edge: Edge, name: str) -> Dataset:
    may_change(edge.who, store.find(session, name).owner_id)
    dataset = store.delete(session, name)
    people.audit(session, edge.who.id, "dataset.delete", dataset.name)
    return dataset


@router.post("/{name}/restore")
async def restore(name: DatasetName, edge: AnEdge) -> DatasetDetailOut:
    """Undo a deletion; by name, the one that was deleted last comes back."""
    return await edge.write(lambda session: reading.dataset_detail(session, bring_back(session, edge, name)))


def bring_back(session: Session, edge: Edge, name: str) -> Dataset:
    deleted = reading.deleted_dataset(session, name)
    may_change(edge.who, deleted.owner_id)
    people.audit(session, edge.who.id, "dataset.restore", deleted.name)
    return store.restore(session, deleted.id)
