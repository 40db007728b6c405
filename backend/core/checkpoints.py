"""What makes a checkpoint whole: a manifest that lists every file. Trainers write it, supervisors verify it; no torch here.

A training library goes on in silence, and wrongly, from a checkpoint that lacks its optimizer, scheduler or random states. So
a checkpoint is used only when each file of its manifest is there with the right bytes, and nothing else is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from backend.core.assignment import MANIFEST
from backend.core.durable import sync
from backend.core.errors import Problem


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # relative to the folder, with forward slashes
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Every file of a published folder but the manifest itself, in order of name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    v: int = 1
    step: int
    files: tuple[FileEntry, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def write_manifest(folder: Path, step: int) -> Manifest:
    """Hash and sync every file in `folder`, then write and sync the manifest that lists them."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = tuple(_entry(folder, name) for name in names if name != MANIFEST)
    manifest = Manifest(step=step, files=files)
    (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(), indent=1), encoding="utf-8")
    for path in [folder / MANIFEST, *(folder / file.name for file in files), folder]:
        sync(path)
    return manifest


def publish(temporary: Path, final: Path) -> None:
    """Give a synced folder its name. What stands there already is never replaced."""
    if final.exists():
        raise FileExistsError(f"{final.name} is published already")
    temporary.rename(final)
    sync(final.parent)


def verify(folder: Path) -> list[Problem]:
    """Everything that is wrong with a checkpoint; empty where it can be used. Reads and hashes every file."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return [Problem("checkpoint.unfinished", "has no manifest: it was never finished.", folder.name)]
    except (OSError, ValidationError):
        return [Problem("checkpoint.damaged", "has a manifest that cannot be read.", folder.name)]
    listed = {file.name for file in manifest.files}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    strangers = [Problem("checkpoint.stranger", "is not in the manifest.", name) for name in sorted(present - listed)]
    return [problem for file in manifest.files if (problem := _check(folder, file))] + strangers


def manifest_sha256(folder: Path) -> str:
    """The digest that a journal line and a row name a checkpoint by."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def _entry(folder: Path, name: str) -> FileEntry:
    path = folder / name
    return FileEntry(name=name, bytes=path.stat().st_size, sha256=_sha256(path))


def _check(folder: Path, file: FileEntry) -> Problem | None:
    path = folder / file.name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            return Problem("checkpoint.damaged", "lies outside the checkpoint.", file.name)
        is_there = path.is_file()
    except (OSError, ValueError):  # too long, or with a NUL: no file is called so
        is_there = False
    if not is_there:
        return Problem("checkpoint.damaged", "is missing.", file.name)
    if path.stat().st_size != file.bytes:
        return Problem("checkpoint.damaged", f"has {path.stat().st_size} bytes instead of {file.bytes}.", file.name)
    return None if _sha256(path) == file.sha256 else Problem("checkpoint.damaged", "has other bytes.", file.name)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of the checkpoint."""
    state: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return state
