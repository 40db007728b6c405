"""Who did what. For administrators."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse

from backend.core.audit import PAGE, Wanted
from backend.web import administration
from backend.web.deps import Admin, AnEdge
from backend.web.downloads import a_file
from backend.web.routers import api_router
from backend.web.shapes.common import Listing
from backend.web.shapes.people import AuditOut

router = api_router("/audit", "audit")

Person = Annotated[str, Query(max_length=100, description="Only what this person did.", examples=["ada"])]
Action = Annotated[str, Query(max_length=100, description="One action, or a group of them.", examples=["token"])]
COLUMNS = ("at", "person", "address", "action", "subject", "data")
FILE = a_file("All of it, as `format` asks.", "text/csv", "application/jsonl")


@router.get("")
async def list_audit(
    edge: AnEdge,
    _: Admin,
    person: Person = "",
    action: Action = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    before: UUID | None = None,
) -> Listing[AuditOut]:
    """Everything that was done by anybody, from which address, the newest first."""

    def work(session: Session) -> Listing[AuditOut]:
        items, following = administration.audit_page(session, Wanted(person, action, before), limit)
        return Listing(items=items, next=following)

    return await edge.read(work)


@router.get("/download", response_class=StreamingResponse, responses=FILE)
async def download(
    edge: AnEdge, _: Admin, person: Person = "", action: Action = "", format: Literal["csv", "jsonl"] = "csv"
) -> StreamingResponse:
    """All of it as one file."""
    wanted, read = Wanted(person, action), partial(administration.audit_page, limit=PAGE)
    page = await edge.read(partial(read, wanted=wanted))  # what cannot be asked for is refused before the answer begins

    async def lines() -> AsyncIterator[str]:
        if format == "csv":
            yield _csv_line(COLUMNS)
        found, following = page
        yield written(found)
        while following:  # a page at a time: whoever reads slowly holds no connection
            after = replace(wanted, before=UUID(following))
            found, following = await edge.read(partial(read, wanted=after))
            yield written(found)

    def written(found: Iterable[AuditOut]) -> str:
        return "".join(map(as_csv if format == "csv" else as_jsonl, found))

    media = "text/csv; charset=utf-8" if format == "csv" else "application/jsonl; charset=utf-8"
    return StreamingResponse(
        lines(), media_type=media, headers={"Content-Disposition": f'attachment; filename="audit.{format}"'}
    )


def as_jsonl(entry: AuditOut) -> str:
    return entry.model_dump_json() + "\n"


def as_csv(entry: AuditOut) -> str:
    data = json.dumps(entry.data, ensure_ascii=False) if entry.data else ""
    cells = [entry.at.isoformat(), entry.person or "", entry.address or "", entry.action, entry.subject, data]
    return _csv_line(map(_harmless, cells))


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _harmless(text: str) -> str:
    """A spreadsheet takes what begins like this for a formula; names of people and things come from people."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
