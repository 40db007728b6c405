"""Who did what. For administrators."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse

from backend.core import audit
from backend.core.audit import Wanted
from backend.web import administration
from backend.web.deps import Admin, AnEdge
from backend.web.shapes.common import Listing
from backend.web.shapes.people import AuditOut

router = APIRouter(prefix="/audit", tags=["audit"])

Person = Annotated[str, Query(max_length=100, description="Only what this person did.", examples=["ada"])]
Action = Annotated[str, Query(max_length=100, description="One action, or a group of them.", examples=["token"])]
COLUMNS = ("at", "person", "action", "subject", "data")


@router.get("")
async def list_audit(
    edge: AnEdge,
    _: Admin,
    person: Person = "",
    action: Action = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    before: UUID | None = None,
) -> Listing[AuditOut]:
    """Sign-ins, people, tokens, workers, and everything that was destroyed; the newest first."""

    def work(session: Session) -> Listing[AuditOut]:
        items, following = administration.audit_page(session, Wanted(person, action, before), limit)
        return Listing(items=items, next=following)

    return await edge.read(work)


@router.get("/download", response_class=StreamingResponse)
def download(
    edge: AnEdge, _: Admin, person: Person = "", action: Action = "", format: Literal["csv", "jsonl"] = "csv"
) -> StreamingResponse:
    """All of it as one file."""

    def lines() -> Iterator[str]:
        with edge.studio.sync_sessions() as session:
            found = (administration.audit_out(*row) for row in audit.everything(session, Wanted(person, action)))
            yield from as_csv(found) if format == "csv" else as_jsonl(found)

    media = "text/csv; charset=utf-8" if format == "csv" else "application/jsonl; charset=utf-8"
    return StreamingResponse(
        lines(), media_type=media, headers={"Content-Disposition": f'attachment; filename="audit.{format}"'}
    )


def as_jsonl(found: Iterable[AuditOut]) -> Iterator[str]:
    return (each.model_dump_json() + "\n" for each in found)


def as_csv(found: Iterable[AuditOut]) -> Iterator[str]:
    yield _csv_line(COLUMNS)
    for each in found:
        data = json.dumps(each.data, ensure_ascii=False) if each.data else ""
        yield _csv_line([each.at.isoformat(), each.person or "", each.action, _harmless(each.subject), data])


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _harmless(text: str) -> str:
    """A spreadsheet takes what begins like this for a formula; names of people and things come from people."""
    return "'" + text if text[:1] in "=+-@\t\r" else text
