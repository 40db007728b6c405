"""Every artifact of a finished run: written under a temporary name, hashed, renamed, told to the journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.core.assignment import LineKind
from worker.exports.context import ExportContext

Emit = Callable[[LineKind, dict[str, Any]], None]
"""Writes one journal line: its kind and its data."""


def export_all(context: ExportContext, attempt: Path, emit: Emit) -> None:
    """Write each export of the catalog that applies to `<attempt>/artifacts/<kind>` and emit its `artifact` line.

    Long steps emit `progress` lines. Raises `StudioError` where an artifact cannot be made or proved: it is then not there,
    and those before it are.
    """
    raise NotImplementedError
