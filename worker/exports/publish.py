"""Every artifact of a finished run: written under a temporary name, hashed, renamed, told to the journal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.core.archives import describe, files_sha256
from backend.core.assignment import ARTIFACTS, LineKind
from backend.core.catalog import EXPORTS
from backend.core.durable import sync, sync_tree
from backend.core.exports.base import Export
from worker.exports.bench import WorkerBench
from worker.exports.context import ExportContext
from worker.exports.merge import OnProgress

Emit = Callable[[LineKind, dict[str, Any]], None]
"""Writes one journal line: its kind and its data."""


def export_all(context: ExportContext, attempt: Path, emit: Emit) -> None:
    """Write each export of the catalog that applies to `<attempt>/artifacts/<kind>` and emit its `artifact` line.

    Long steps emit `progress` lines. Raises `StudioError` where an artifact cannot be made or proved: it is then not there,
    and those before it are.
    """
    for export in EXPORTS:
        if export.applies(context.recipe):
            publish(export, context, attempt, emit)


def publish(export: Export, context: ExportContext, attempt: Path, emit: Emit) -> None:
    """One artifact, whole or not at all."""
    folder = attempt / ARTIFACTS / export.kind
    beside = folder.with_name(f".tmp-{export.kind}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        facts = export.write(WorkerBench(context, per_cent(export.title, emit)), beside)
        sync_tree(beside)
        files = describe(beside)
        beside.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    made = {
        "kind": export.kind,
        "folder": folder.relative_to(attempt).as_posix(),
        "files": [asdict(file) for file in files],
        "bytes": sum(file.bytes for file in files),
        "sha256": files_sha256(files),
        "facts": facts,
    }
    emit(LineKind.ARTIFACT, made)


def per_cent(what: str, emit: Emit) -> OnProgress:
    """Tell the journal of each whole per cent, not of each tensor."""
    told = -1

    def tell(done: int, total: int) -> None:
        nonlocal told
        if (now := done * 100 // max(total, 1)) > told:
            told = now
            emit(LineKind.PROGRESS, {"what": what, "done": done, "total": total})

    return tell
