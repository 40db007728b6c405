"""`studio artifact …`: what runs give out. Downloads go on where they broke off, and are checked before they count."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.markup import escape

from backend.commands.client import Client, OnBytes, Refused, connect
from backend.commands.output import AsJson, Columns, bytes_bar, print_list
from backend.core.archives import BROKEN, ArchivedFile, files_sha256
from backend.core.errors import NotFound, StudioError
from backend.web.shapes.runs import ArtifactOut

app = typer.Typer(no_args_is_help=True, help="What runs give out: adapters and merged models.")

PIECE_BYTES = 1 << 20


class Damaged(StudioError):
    """What was received is not what the studio has."""

    code = "download.damaged"


@app.command("list")
def list_artifacts(run: str, as_json: AsJson = False) -> None:
    """What RUN gives out."""
    with connect() as client:
        found = client.artifacts(run)
    columns: Columns = {
        "KIND": [each.kind for each in found],
        "STEP": [each.step for each in found],
        "BYTES": [f"{each.bytes:,}" for each in found],
        "SHA-256": [each.sha256 for each in found],
    }
    print_list(found, columns, as_json=as_json)


@app.command()
def download(
    run: str,
    kind: Annotated[str, typer.Argument(help="adapter or merged; both by default.")] = "",
    folder: Annotated[Path, typer.Option("-o", "--output", file_okay=False, help="Where to.")] = Path(),
    unpack: Annotated[bool, typer.Option("--unpack", help="Unpack the zip, and keep only the folder.")] = False,
) -> None:
    """Download what RUN gives out, as zip files. A download that broke off goes on where it was."""
    with connect() as client:
        for artifact in wanted(client.artifacts(run), run, kind):
            path = fetch(client, artifact, folder)
            typer.echo(extract(path) if unpack else path)


def wanted(artifacts: list[ArtifactOut], run: str, kind: str) -> list[ArtifactOut]:
    """Raises `NotFound` naming what there is."""
    chosen = [each for each in artifacts if kind in ("", each.kind)]
    if not chosen:
        there = ", ".join(each.kind for each in artifacts) or "nothing yet"
        raise NotFound(f"“{run}” gives out no {kind or 'artifact'}.", hint=f"There is: {there}.")
    return chosen


def fetch(client: Client, artifact: ArtifactOut, folder: Path) -> Path:
    """The artifact's zip in `folder`, whole and checked. Raises `Damaged` where it is not what the studio has."""
    path = folder / f"{name_of(artifact)}.zip"
    folder.mkdir(parents=True, exist_ok=True)
    # The hash in its name keeps a piece of one artifact from being completed with another.
    part = path.with_name(f".{path.name}.{artifact.sha256[:16]}.part")
    with bytes_bar() as bar:
        task = bar.add_task(escape(path.name), total=artifact.bytes)
        client.patiently(lambda: receive(client, artifact, part, lambda count: bar.advance(task, count)))
    check(part, artifact)
    part.rename(path)
    return path


def name_of(artifact: ArtifactOut) -> str:
    """Of its zip, and of the one folder in it. Raises `Damaged` where that would lead elsewhere."""
    name = f"{artifact.run}-{artifact.kind}"
    if not are_plain(name, artifact.sha256):
        raise Damaged(f"What is given out is called {name!r}, which is no name of a file.", hint="Is this your studio?")
    return name


def are_plain(*names: str) -> bool:
    """Whether each names something right here: whoever answers as the studio may say what they like."""
    return not any(name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable() for name in names)


def receive(client: Client, artifact: ArtifactOut, part: Path, on_bytes: OnBytes) -> None:
    """What is still missing of `part`."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with client.download(artifact.download, headers) as response, part.open("ab") as file:
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                file.truncate(0)
            for piece in response.iter_bytes(PIECE_BYTES):
                file.write(piece)
                on_bytes(len(piece))
            file.flush()
            os.fsync(file.fileno())
    except Refused as refused:
        if refused.status != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise  # else nothing is missing


def check(part: Path, artifact: ArtifactOut) -> None:
    """Hash every file of the zip, and the list of them. What is damaged is removed, so that the next try starts anew."""
    try:
        found = files_sha256(contents(part, name_of(artifact)))
    except BROKEN as error:
        found = str(error)
    if found != artifact.sha256:
        part.unlink()
        hint = "Download it again; it starts anew."
        raise Damaged(f"The {artifact.kind} of “{artifact.run}” arrived damaged: {found}.", hint=hint)


def contents(archive: Path, folder: str) -> list[ArchivedFile]:
    """The files of a zip, below its one folder, read and hashed. Raises one of `BROKEN` where it is damaged, and where a
    file would lie anywhere else."""
    files = []
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            root, *below = entry.filename.split("/")
            if root != folder or not below or not are_plain(*below):
                raise zipfile.BadZipFile(f"{entry.filename!r} would lie outside of “{folder}”")
            digest = hashlib.sha256()
            with opened.open(entry) as file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
            files.append(ArchivedFile("/".join(below), entry.file_size, digest.hexdigest(), entry.CRC))
    return files


def extract(archive: Path) -> Path:
    """Unpack a checked zip beside it and remove it; returns the folder."""
    folder = archive.with_suffix("")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(archive.parent)
    archive.unlink()
    return folder
