"""`studio dataset …`: send files, list what is there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from backend.commands.client import Client, Refused, connect
from backend.commands.output import AsJson, Columns, bytes_bar, print_list, when
from backend.web.shapes.datasets import DatasetDetailOut, OperationOut

app = typer.Typer(no_args_is_help=True, help="Data sets: send files, list what is there.")

LOOK_SECONDS = 0.5
PACKINGS = (".gz", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    name: Annotated[str, typer.Option(help="What it is called; the file's name by default.")] = "",
    format: Annotated[str, typer.Option(help="The shape of the rows, where the guess is wrong.")] = "",
    column: Annotated[
        list[str] | None, typer.Option(help="ROLE=COLUMN: which column plays which role of the shape; again for each.")
    ] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows with problems.")] = False,
) -> None:
    """Send FILE as a new data set, or as the next version of one."""
    options = {"format": format} if format else {}
    options |= {"columns": json.dumps(columns_of(column))} if column else {}
    options |= {"skip_bad_rows": "true"} if skip_bad_rows else {}
    with connect() as client:
        added = send(client, name or plain_name(file), file, **options)
    version = added.version
    typer.echo(f"{added.name}, version {version.number}: {version.rows:,} rows of {version.kind} ({version.format}).")


def columns_of(pairs: list[str]) -> dict[str, str]:
    """`["output=Answer"]` → `{"output": "Answer"}`. Raises `BadParameter`."""
    if missing := [pair for pair in pairs if "=" not in pair]:
        raise typer.BadParameter(f"{missing[0]!r} is no ROLE=COLUMN, such as output=Answer.")
    return dict(pair.split("=", 1) for pair in pairs)


def plain_name(file: Path) -> str:
    """`answers.jsonl.gz` → `answers`."""
    name = file.name
    while (suffix := Path(name).suffix.lower()) in PACKINGS:
        name = name[: -len(suffix)]
    return name


def send(client: Client, name: str, file: Path, **options: str) -> DatasetDetailOut:
    """Send a file with a bar, and wait until it is read. Raises `Refused` with every problem, by row."""
    with bytes_bar() as bar:
        task = bar.add_task(escape(file.name), total=file.stat().st_size)
        answer = client.put_dataset(name, file, on_bytes=lambda count: bar.advance(task, count), **options)
        if isinstance(answer, DatasetDetailOut):
            return answer
        bar.update(task, description="reading", completed=0)
        while answer.state == "running":
            bar.update(task, completed=answer.done, total=answer.total)
            time.sleep(LOOK_SECONDS)
            answer = client.operation(answer.id)
    raise_failure(answer)
    return client.dataset(name)


def raise_failure(operation: OperationOut) -> None:
    if operation.state == "failed" and operation.error:
        raise Refused(422, operation.error.model_dump())
    if operation.state != "succeeded":
        raise Refused(409, {"message": f"Reading the file was {operation.state}."})


@app.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """Data sets with their newest versions."""
    with connect() as client:
        found = client.datasets()
    columns: Columns = {
        "NAME": [each.name for each in found],
        "VERSION": [each.version.number for each in found],
        "ROWS": [f"{each.version.rows:,}" for each in found],
        "KIND": [each.version.kind for each in found],
        "CHANGED": [when(each.version.created_at) for each in found],
    }
    print_list(found, columns, as_json=as_json)
