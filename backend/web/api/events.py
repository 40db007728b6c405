"""The live streams. Whatever may refuse does so in a dependency: once a stream runs, the 200 is on its way."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Header, Query
from starlette.responses import StreamingResponse

from backend.core import runs
from backend.core.errors import Invalid
from backend.web.api.runs import RunName
from backend.web.deps import AnEdge, Edge
from backend.web.routers import api_router
from backend.web.stream import Viewer, cursor_of, frames

router = api_router("", "runs")

MOST_RUNS = 200

FRAME: dict[str, Any] = {
    "type": "object",
    "title": "One event of the stream",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["message", "beat", "end"]},
        "id": {"type": "string", "description": "Send it back as `Last-Event-ID`."},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: each `data` is an `EventOut` (with `latest`, a `RunOut`); `beat` comes each 10 s.",
        "content": {
            "text/event-stream": {
                "schema": FRAME,
                "example": 'id: 7\ndata: {"run":"0199…","seq":7,"kind":"metrics","step":3,"data":{"values":{"loss":6.1}}}\n\n',
            }
        },
    }
}


def cursor_text(
    last_event_id: Annotated[str, Header(description="The id of the last event that was seen.")] = "",
    after: Annotated[str, Query(max_length=10_000, description="The same, for a stream that is opened anew.")] = "",
) -> str:
    """The header is fresher than the address. Both are text, so that nonsense does not end in a 422."""
    return last_event_id or after


Cursor = Annotated[str, Depends(cursor_text)]


async def one_run(run: RunName, edge: AnEdge) -> list[UUID]:
    return [(await edge.read(lambda session: runs.find(session, run))).id]


Beyond = Annotated[UUID | None, Query(description="Runs made after this one are followed too.")]


async def several_runs(
    edge: AnEdge,
    run: Annotated[
        list[Annotated[str, Query(max_length=100)]], Query(max_length=MOST_RUNS, description="Names or ids.")
    ] = [],  # noqa: B006 -- FastAPI copies it
    beyond: Beyond = None,
) -> list[UUID]:
    if not run and not beyond:
        raise Invalid("Say which runs to follow.", where="run", hint="Name some, or the newest known one as “beyond”.")
    found = await edge.read(lambda session: [runs.find(session, each).id for each in run])
    return list(dict.fromkeys(found))


@router.get("/runs/{run}/events", responses=STREAM, response_class=StreamingResponse)
async def events(run_ids: Annotated[list[UUID], Depends(one_run)], cursor: Cursor, edge: AnEdge) -> StreamingResponse:
    """Everything that happens in a run, from `Last-Event-ID` on. A run that has ended closes with an `end` event."""
    return stream(edge, cursor_of(cursor, run_ids), is_single=True)


@router.get("/events", responses=STREAM, response_class=StreamingResponse)
async def events_of_several(
    run_ids: Annotated[list[UUID], Depends(several_runs)],
    cursor: Cursor,
    edge: AnEdge,
    beyond: Beyond = None,
    latest: bool = False,
) -> StreamingResponse:
    """Several runs on one connection; ids are the pairs `run:seq,run:seq`. With `latest` only each run's newest state.

    Only the last event of each piece has an id. Behind a lost connection some come again, so leave out what is not newer than
    the greatest `seq` that you have of its run.
    """
    return stream(edge, cursor_of(cursor, run_ids), wants_latest=latest, beyond=beyond)


def stream(
    edge: Edge,
    cursors: dict[UUID, int],
    *,
    is_single: bool = False,
    wants_latest: bool = False,
    beyond: UUID | None = None,
) -> StreamingResponse:
    viewer = Viewer(cursors, is_single, wants_latest, beyond, partial(edge.studio.still_holds, edge.who))
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the second keeps nginx from holding it back
    return StreamingResponse(frames(edge.studio.hub, viewer), media_type="text/event-stream", headers=headers)
