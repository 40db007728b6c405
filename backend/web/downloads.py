"""Files that leave: a zip of known length, or a single file, in ranges. RFC 9110, sections 13 and 14."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from backend.core.archives import Archive, ArchivedFile
from backend.core.errors import Conflict, NotFound
from backend.core.models import Artifact

Answers = dict[int | str, dict[str, Any]]
"""What a route is told to describe in OpenAPI beside its return type."""

OCTETS = "application/octet-stream"
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def a_file(words: str, *media_types: str) -> Answers:
    """The description of an answer that is a file, of one of these types."""
    schema = {"type": "string", "format": "binary"}
    return {200: {"description": words, "content": {each: {"schema": schema} for each in media_types}}}


def send_archive(request: Request, home: Path, artifact: Artifact, name: str) -> Response:
    """The artifact's folder as a zip. Raises `Conflict` where this host cannot reach the files."""
    files = [
        ArchivedFile(**{key: file[key] for key in ("name", "bytes", "sha256", "crc32")}) for file in artifact.files
    ]
    for file in files:
        reachable(home, artifact, file.name)
    archive = Archive(home / artifact.folder, files, root=name.removesuffix(".zip"))
    headers = headers_of(archive.etag, name, artifact.sha256)
    if is_known(request.headers.get("if-none-match", ""), archive.etag):
        return Response(status_code=304, headers=headers)
    return send_range(request, archive, headers)


def send_file(request: Request, home: Path, artifact: Artifact, name: str, accel_prefix: str) -> Response:
    """One file of the artifact. With `accel_prefix` the proxy in front sends it, and this process reads none of it.
    Raises `NotFound` for any name that the artifact does not list, and `Conflict` where this host cannot reach it."""
    listed = next((file for file in artifact.files if file["name"] == name), None)
    if listed is None:
        raise NotFound("The artifact has no such file.", where=name, hint="Its description lists what it has.")
    path = reachable(home, artifact, name)
    headers = headers_of(f'"{listed["sha256"]}"', Path(name).name, listed["sha256"])
    if is_known(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if accel_prefix:
        headers["X-Accel-Redirect"] = quote(f"{accel_prefix}/{artifact.folder}/{name}")
        return Response(headers=headers, media_type=OCTETS)
    return FileResponse(path, headers=headers, media_type=OCTETS)


def reachable(home: Path, artifact: Artifact, name: str) -> Path:
    """Where the file lies. A trainer says what an artifact holds, and must not name what lies outside of its run's folder, by
    a path that climbs or by a link. Raises `Conflict`."""
    path, own = home / artifact.folder / name, home / "runs" / str(artifact.run_id)
    if not path.is_file() or not path.resolve().is_relative_to(own.resolve()):
        raise Conflict(
            f"The file {path.name} of this artifact cannot be reached from here.",
            hint="It lies on the worker that made it: share its storage with the web host.",
            code="artifact.unreachable",
        )
    return path


def headers_of(etag: str, name: str, sha256: str) -> dict[str, str]:
    return {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": attachment(name),
        "X-Checksum-SHA256": sha256,
    }


def is_known(header: str, etag: str) -> bool:
    """Whether `If-None-Match` names it: `*`, or one of several, also where a proxy on the way weakened it."""
    return header.strip() == "*" or etag in (part.strip().removeprefix("W/") for part in header.split(","))


def send_range(request: Request, archive: Archive, headers: dict[str, str]) -> Response:
    """The whole, or the one range that was asked for. Several ranges at once are answered with the whole, as allowed."""
    wanted = request.headers.get("range", "")
    if request.headers.get("if-range", archive.etag) != archive.etag:
        wanted = ""  # it changed meanwhile: a piece of it would not fit the rest
    part = parse_range(wanted, archive.length)
    if part is None:
        return respond(request, archive.read(), 200, headers | {"Content-Length": str(archive.length)})
    start, end = part
    if start >= end:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{archive.length}"})
    headers = headers | {
        "Content-Range": f"bytes {start}-{end - 1}/{archive.length}",
        "Content-Length": str(end - start),
    }
    return respond(request, archive.read(start, end), 206, headers)


def respond(request: Request, body: Iterator[bytes], status: int, headers: dict[str, str]) -> Response:
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="application/zip")
    return StreamingResponse(body, status, headers, media_type="application/zip")


def parse_range(text: str, length: int) -> tuple[int, int] | None:
    """`bytes=5-9` → (5, 10), `bytes=-3` → the last three bytes; None where there is no single range. An empty span, as
    behind the end, cannot be satisfied."""
    found = RANGE.fullmatch(text.replace(" ", ""))
    if not found or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        return max(0, length - int(last)), length
    end = min(int(last) + 1, length) if last else length
    return (int(first), end) if not last or int(last) >= int(first) else None


def attachment(name: str) -> str:
    """`Content-Disposition` for any name: plain for old clients, RFC 8187 for the others."""
    plain = re.sub(r"[^A-Za-z0-9 ._+-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
