"""What runs give away: metadata, the folder as one zip, and its files one by one, in ranges."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from backend.core.errors import NotFound
from backend.core.ids import as_uuid
from backend.core.models import Artifact, Run
from backend.web import reading
from backend.web.deps import AnEdge
from backend.web.downloads import OCTETS, Answers, a_file, send_archive, send_file
from backend.web.routers import api_router
from backend.web.shapes.runs import ArtifactOut

router = api_router("/artifacts", "artifacts")


def in_ranges(words: str, media_type: str) -> Answers:
    """What a download that can be resumed answers."""
    return {
        **a_file(words, media_type),
        206: a_file("The range that was asked for.", media_type)[200],
        304: {"description": "It is what `If-None-Match` names."},
        416: {"description": "The range lies behind the end."},
    }


ZIP, FILE = in_ranges("The whole zip.", "application/zip"), in_ranges("The whole file.", OCTETS)

ArtifactId = Annotated[str, Path(max_length=100, description="The artifact's id.")]


FileName = Annotated[str, Path(max_length=400, description="A file's name, with the folders that it lies in.")]


def find(session: Session, artifact_id: str) -> tuple[Artifact, str]:
    """The artifact and its run's name. Raises `NotFound`."""
    key = as_uuid(artifact_id)
    row = session.get(Artifact, key) if key else None
    run = session.get(Run, row.run_id) if row else None
    if row is None or run is None or row.withdrawn_at:
        raise NotFound("There is no such artifact.", hint="The run's page lists what it gives away.")
    return row, run.name


@router.get("/{artifact}")
async def get(artifact: ArtifactId, edge: AnEdge) -> ArtifactOut:
    return await edge.read(lambda session: reading.artifact_out(*find(session, artifact)))


@router.head("/{artifact}/download", include_in_schema=False)
@router.get("/{artifact}/download", response_class=Response, responses=ZIP)
async def download(artifact: ArtifactId, request: Request, edge: AnEdge) -> Response:
    """The artifact as a zip of known length. Ranges, `If-Range`, `ETag` and `HEAD` work; `X-Checksum-SHA256` is the
    artifact's own hash, over the list of its files."""
    row, run_name = await edge.read(lambda session: find(session, artifact))
    return send_archive(request, edge.settings.root, row, f"{run_name}-{row.kind}.zip")


@router.head("/{artifact}/files/{file:path}", include_in_schema=False)
@router.get("/{artifact}/files/{file:path}", response_class=Response, responses=FILE)
async def download_file(artifact: ArtifactId, file: FileName, request: Request, edge: AnEdge) -> Response:
    """One file of the artifact, as `files` lists them. Ranges, `If-Range`, `ETag` and `HEAD` work; `X-Checksum-SHA256`
    is the file's hash. Where the studio is told of a proxy that can send files (`STUDIO_ACCEL_PREFIX`), that sends it."""
    row, _run_name = await edge.read(lambda session: find(session, artifact))
    return send_file(request, edge.settings.root, row, file, edge.settings.accel_prefix)
