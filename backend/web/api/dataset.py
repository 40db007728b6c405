"""The rows of one data set: what every cut costs, what may be wrong with them, mended versions, and the rows themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import Query
from sqlalchemy.orm import Session
from starlette.responses import Response, StreamingResponse

from backend.core import lengths, people
from backend.core.datasets import store
from backend.core.datasets.mending import commit_mended, mend
from backend.core.datasets.picking import all_rows
from backend.core.lengths import Lens
from backend.core.models import Dataset, DatasetVersion
from backend.core.storage import storage
from backend.web import measuring, reading
from backend.web.api.datasets import DatasetName, ModelPath, Template, Version
from backend.web.deps import AnEdge, Edge, may_change
from backend.web.downloads import a_file, attachment
from backend.web.looking import USUAL_LENGTH
from backend.web.routers import api_router
from backend.web.shapes.datasets import CutOut, DatasetDetailOut, FindingOut, MendIn

router = api_router("/datasets", "data sets")

NUMBERS_TOLD = 1000
SENT_BYTES = 256 << 10
"""Lines are sent together from this size on: each sending costs about as much as a hundred short lines."""
LINES = a_file("A row a line.", "application/jsonl")


@router.get("/{name}/lengths")
async def cut_lengths(
    name: DatasetName,
    edge: AnEdge,
    model: ModelPath,
    version: Version = None,
    chat_template: Template = "auto",
    assistant_only_loss: bool = True,
    max_length: Annotated[int | None, Query(ge=8, le=1_048_576, description="Where rows are cut.")] = None,
    truncation: Annotated[lengths.Truncation, Query(description="What happens to longer rows.")] = "refuse",
) -> CutOut:
    """How long the rows are under a model, and what a run that cuts them there would learn. The rows are measured the
    first time, which takes a while for many; from then on any cut is answered at once."""
    found = await edge.read(lambda session: store.version(session, name, version))
    lens = Lens(model, chat_template, assistant_only_loss)
    measured = await measuring.lengths_of(edge, found, lens)
    limit = max_length or min(USUAL_LENGTH, measured.context_length or USUAL_LENGTH)
    return CutOut(
        **measured.at(limit, truncation).as_json(),
        rows_in_all=measured.rows_in_all,
        measured=measured.rows,
        refused=measured.refused,
        endless=measured.endless,
        longest=measured.longest,
        median=measured.quantile(0.5),
        context_length=measured.context_length,
        end_token=measured.end_token,
        histogram=measured.histogram(),
    )


@router.get("/{name}/findings")
async def findings(name: DatasetName, edge: AnEdge, version: Version = None) -> list[FindingOut]:
    """What may be wrong with rows that can be read: repeats, personal data, talk of being an AI and more."""
    found = await edge.read(lambda session: store.version(session, name, version))
    return [
        FindingOut(
            cleaner=each.name,
            fix=each.fix,
            rows=len(each.places),
            places=each.involved[:NUMBERS_TOLD].tolist(),
            examples=[example.before + example.words + example.behind for example in each.examples],
        )
        for each in await measuring.findings_of(edge, found)
    ]


@router.post("/{name}/mend", status_code=201)
async def post_mend(name: DatasetName, body: MendIn, edge: AnEdge) -> DatasetDetailOut:
    """Make a new version in which what a cleaner finds is left out, kept once or masked. The version before stays."""
    await mend_version(edge, name, body.version, body.cleaner)
    return await edge.read(lambda session: reading.dataset_detail(session, store.find(session, name)))


async def mend_version(edge: Edge, name: str, number: int | None, cleaner: str) -> DatasetVersion:
    def check(session: Session) -> DatasetVersion:
        found = store.version(session, name, number)
        may_change(edge.who, session.get_one(Dataset, found.dataset_id).owner_id)
        return found

    parent = await edge.read(check)
    prepared = await edge.apart(mend, edge.settings, parent, cleaner)

    def work(session: Session) -> DatasetVersion:
        check(session)
        people.audit(session, edge.who.id, "dataset.mend", name, version=parent.number, cleaner=cleaner)
        return commit_mended(session, parent, prepared, edge.who.id)

    return await edge.write(work)


@router.get("/{name}/download", response_class=StreamingResponse, responses=LINES)
async def download(name: DatasetName, edge: AnEdge, version: Version = None) -> Response:
    """A version as JSON lines: its rows as they were normalised, one after the other."""
    found = await edge.read(lambda session: store.version(session, name, version))
    title = await edge.read(lambda session: store.find(session, name).name)
    path = await asyncio.to_thread(storage(edge.settings).fetch, found.key)
    headers = {"Content-Disposition": attachment(f"{title}-v{found.number}.jsonl")}
    return StreamingResponse(lines_of(path), 200, headers, media_type="application/jsonl")


def lines_of(path: Path) -> Iterator[bytes]:
    """The rows of a version's file as JSON lines, whole ones, in pieces of about `SENT_BYTES`."""
    held = bytearray()
    for row in all_rows(path):
        held += json.dumps(reading.row_out(row), ensure_ascii=False).encode() + b"\n"
        if len(held) >= SENT_BYTES:
            yield bytes(held)
            held.clear()
    yield bytes(held)
