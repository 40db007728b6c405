"""Resumable uploads by tus 1.0 (core, creation, termination): https://tus.io/protocols/resumable-upload.

The file becomes a version of the data set that `Upload-Metadata` names (`dataset`, `filename`, optionally `format`,
`columns`, `skip_bad_rows`) with the last piece: that PATCH answers 204 with `Location` naming the data set, or the operation
that reads it. Whoever never heard that answer asks again, by HEAD or with an empty piece: a finished upload tells it until it is
swept, a day later. Each answer to a piece tells in `Upload-Rows` how many rows have come so far, where they can be counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Header, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from backend.core import people, uploads
from backend.core.datasets import store
from backend.core.errors import BadRequest, Conflict, NotFound, StudioError, TooMany, Unauthenticated, Unavailable
from backend.core.tallies import Tallies
from backend.web.api.datasets import GIB, check_owner, columns_of, take_in
from backend.web.bodies import body_of
from backend.web.deps import AnEdge, Edge
from backend.web.routers import api_router
from backend.web.shapes.common import LARGEST
from backend.web.shapes.datasets import UploadOut

router = api_router("/uploads", "uploads")

PIECE = "application/offset+octet-stream"
UNFINISHED = 50
"""Of one person at a time: all of them are read for each list of data sets."""
PASSING = (Conflict, TooMany, Unauthenticated, Unavailable)
"""What keeps a whole file from being taken in now: its sender may sign in again. A disk that finds out at the end that it is
full has lost some of it."""
TALLIES = Tallies()
"""Of all uploads of this process, by their ids."""
PIECE_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {PIECE: {"schema": {"type": "string", "format": "binary"}}}}
}


def told(status: int, words: str, *headers: str, perhaps: Sequence[str] = ()) -> dict[int | str, dict[str, Any]]:
    """An answer without a body, the headers that always come with it, and those that come where there is something to tell."""
    names = dict.fromkeys(("Tus-Resumable", *headers), True) | dict.fromkeys(perhaps, False)
    described = {name: {"required": always, "schema": {"type": "string"}} for name, always in names.items()}
    return {status: {"description": words, "headers": described}}


def answer(status: int, **headers: str | int) -> Response:
    """`Upload_Offset=1` → `Upload-Offset: 1`."""
    named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    return Response(status_code=status, headers={"Tus-Resumable": uploads.TUS_VERSION, **named})


@router.options(
    "",
    status_code=204,
    response_class=Response,
    responses=told(204, "What is possible.", "Tus-Version", "Tus-Extension", "Tus-Max-Size"),
)
async def capabilities(edge: AnEdge) -> Response:
    """What this server can do."""
    limit = int(edge.settings.upload_limit_gib * GIB)
    return answer(204, Tus_Version=uploads.TUS_VERSION, Tus_Extension=uploads.TUS_EXTENSIONS, Tus_Max_Size=limit)


@router.post("", status_code=201, response_class=Response, responses=told(201, "Begun.", "Location", "Upload-Offset"))
async def create(
    edge: AnEdge,
    upload_length: Annotated[int, Header(ge=0, le=LARGEST, description="Bytes of the whole file.")],
    upload_metadata: Annotated[str, Header(max_length=4000, description="`dataset YWxwYWNh,filename YS5qc29ubA==`")],
) -> Response:
    """Begin an upload; send its pieces to `Location`."""
    metadata = uploads.metadata_of(upload_metadata)
    name = metadata.get("dataset", "")
    store.check_name(name)
    columns_of(metadata.get("columns", ""))
    await edge.read(lambda session: check_owner(session, edge, name))
    if len(await asyncio.to_thread(uploads.sessions, folder(edge), str(edge.who.id))) >= UNFINISHED:
        raise Conflict(
            f"{UNFINISHED} of your uploads are unfinished.",
            hint="Go on with some of them, or cancel them.",
            code="upload.unfinished",
        )
    limit = int(edge.settings.upload_limit_gib * GIB)
    made = uploads.create(folder(edge), upload_length, metadata, str(edge.who.id), limit)
    try:
        await edge.studio.write(lambda session: people.audit(session, edge.who.id, "upload.begin", name))
    except BaseException:
        uploads.drop(folder(edge), made.id)  # nobody is told of it
        raise
    return answer(201, Location=f"/api/v1/uploads/{made.id}", Upload_Offset=0)


def folder(edge: Edge) -> Any:
    return edge.settings.folder("uploads")


def own(edge: Edge, upload: UUID) -> uploads.Session:
    """Somebody else's upload is no more to be found than one that never was."""
    session = uploads.session(folder(edge), upload)
    if session.owner != str(edge.who.id):
        raise NotFound("There is no such upload.", code="upload.unknown")
    return session


@router.get("")
async def list_uploads(edge: AnEdge) -> list[UploadOut]:
    """One's own uploads of which nothing became as yet, the newest first: those that flow, broke off, or came whole and are
    not read yet. The same file, sent on from `offset`, ends them."""
    return await asyncio.to_thread(unfinished, edge)


def unfinished(edge: Edge) -> list[UploadOut]:
    """Those that wait for more bytes, and those that came whole and are being read, or could not be."""
    return [upload_out(session) for session in uploads.sessions(folder(edge), str(edge.who.id))]


def upload_out(session: uploads.Session) -> UploadOut:
    said = {key: session.metadata.get(key) for key in ("modified", "head")}
    return UploadOut(
        id=session.id,
        dataset=session.metadata["dataset"],
        filename=uploads.file_name(session),
        length=session.length,
        offset=session.offset,
        begun_at=datetime.fromtimestamp(session.begun, UTC),
        **said,
    )


@router.head(
    "/{upload}",
    response_class=Response,
    responses=told(200, "How far it is.", "Upload-Offset", "Upload-Length", perhaps=["Upload-Rows", "Location"]),
)
async def offset(upload: UUID, edge: AnEdge) -> Response:
    """How far it has come."""
    session = own(edge, upload)
    place = {"Location": session.became} if session.became else {}
    return answer(200, Upload_Offset=session.offset, Upload_Length=session.length, **rows_so_far(session), **place)


def rows_so_far(session: uploads.Session) -> dict[str, int]:
    tally = TALLIES.at(session.id, session.offset)
    return {} if tally is None or tally.rows is None else {"Upload_Rows": tally.rows}


@router.patch(
    "/{upload}",
    status_code=204,
    response_class=Response,
    responses=told(204, "It was added.", "Upload-Offset", perhaps=["Upload-Rows", "Location"]),
    openapi_extra=PIECE_BODY,
)
async def append(
    upload: UUID, request: Request, edge: AnEdge, upload_offset: Annotated[int, Header(ge=0, le=LARGEST)]
) -> Response:
    """Send the piece that begins at `Upload-Offset`."""
    if request.headers.get("content-type") != PIECE:
        raise BadRequest(f"A piece comes as {PIECE}.", where="Content-Type")
    own(edge, upload)
    try:
        async with body_of(request) as body:
            session = await uploads.append(folder(edge), upload, upload_offset, body, TALLIES)
    except ClientDisconnect:
        return answer(204)  # a pause: what came is kept, and nobody reads this answer
    if not session.is_complete:
        return answer(204, Upload_Offset=session.offset, **rows_so_far(session))
    return answer(204, Upload_Offset=session.offset, Location=await finished(edge, session))


async def finished(edge: Edge, session: uploads.Session) -> str:
    """Take the whole file in; the address of what became of it. The session ends when that is stored, or once the file was
    refused; where it can be taken in later, its sender asks again."""
    with uploads.taken(folder(edge), session.id) as (standing, _file):
        if standing.became:
            return standing.became
        try:
            received = await asyncio.to_thread(uploads.received, folder(edge), standing, TALLIES)
            taken = await take_in(edge, upload_of(edge, standing, received))
        except FileNotFoundError:  # an operation of it that stood already has just come to its end
            return uploads.session(folder(edge), standing.id).became
        except StudioError as error:
            if not isinstance(error, PASSING):
                uploads.drop(folder(edge), standing.id, await edge.read(uploads.being_read))
                TALLIES.forget(standing.id)
            raise
        is_read_later = isinstance(taken, Response)
        place = taken.headers["Location"] if isinstance(taken, Response) else f"/api/v1/datasets/{taken.id}"
        uploads.become(folder(edge), standing.id, place, keeps_file=is_read_later)
    TALLIES.forget(session.id)
    return place


def upload_of(edge: Edge, session: uploads.Session, received: uploads.Received) -> store.Upload:
    """What is to become of it, as its sender said."""
    words = session.metadata
    name = words["dataset"]
    return store.upload(
        name,
        words.get("filename") or name,
        received,
        format=words.get("format") or None,
        columns=columns_of(words.get("columns", "")),
        skip_bad_rows=words.get("skip_bad_rows") == "true",
        owner_id=edge.who.id,
    )


@router.delete("/{upload}", status_code=204, response_class=Response, responses=told(204, "It is gone."))
async def cancel(upload: UUID, edge: AnEdge) -> Response:
    """Call it off. What its file became, or is becoming, stays."""
    own(edge, upload)
    with uploads.ending(folder(edge), upload) as standing:
        needed = await edge.read(uploads.being_read) if standing.is_complete else ()
        uploads.drop(folder(edge), upload, needed)
    TALLIES.forget(upload)
    if not standing.became:  # not sooner: the last piece of one that flows might come meanwhile, and make it a data set
        name = standing.metadata["dataset"]
        await edge.studio.write(lambda session: people.audit(session, edge.who.id, "upload.discard", name))
    return answer(204)
