"""How commands print: tables for people, JSON for programs, and nothing of a user's taken for markup."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

Columns = dict[str, list[Any]]
"""A table: title → a value for each row."""


def console() -> Console:
    return Console(highlight=False)


def errors() -> Console:
    """For bars and remarks, so that what a command prints can be piped."""
    return Console(stderr=True, highlight=False)


def print_list(items: Sequence[BaseModel], columns: Columns, *, as_json: bool) -> None:
    """The items as JSON, or as a table of `columns`."""
    if as_json:
        typer.echo(json.dumps([item.model_dump(mode="json") for item in items], indent=2, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False)
    for title in columns:
        table.add_column(title, overflow="fold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(Text(str(value)) for value in row))
    console().print(table)


def bytes_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=errors()
    )


def when(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"
