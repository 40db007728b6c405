"""`studio model …`: the base models that a run can start from."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.markup import escape

from backend.commands.client import Refused, connect
from backend.commands.output import AsJson, Columns, bytes_bar, print_list
from backend.web.shapes.models import BaseOut, HubModelOut

app = typer.Typer(no_args_is_help=True, help="Base models.")

LOOK_SECONDS = 0.5


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Models that lie here; those that cannot be used say why."""
    with connect() as client:
        found = client.models()
    columns: Columns = {
        "NAME": [each.path for each in found],
        "ARCHITECTURE": [each.facts.get("architecture", "") for each in found],
        "PARAMETERS": [in_millions(each) for each in found],
        "CONTEXT": [each.facts.get("context_length") or "" for each in found],
        "PROBLEM": [each.problem.message if each.problem else "" for each in found],
    }
    print_list(found, columns, as_json=as_json)


@app.command()
def search(
    words: Annotated[str, typer.Argument(help="Words, an id, or a model's address.")], as_json: AsJson = False
) -> None:
    """Models on the hub, the most downloaded first; those that cannot be used say why."""
    with connect() as client:
        found = client.hub_models(words)
    columns: Columns = {
        "ID": [each.id for each in found],
        "PARAMETERS": [in_millions(each) for each in found],
        "KIND": [each.kind for each in found],
        "LICENCE": [each.licence or "" for each in found],
        "FITS": [
            ", ".join(dict.fromkeys(fit.method for fit in each.fits if fit.verdict != "too_big")) for each in found
        ],
        "PROBLEM": [each.problem.message if each.problem else "" for each in found],
    }
    print_list(found, columns, as_json=as_json)


@app.command()
def add(
    hub_id: Annotated[str, typer.Argument(metavar="ID", help="Its id on the hub, such as Qwen/Qwen3-0.6B.")],
) -> None:
    """Download a model from the hub at its newest commit. Broken off, it goes on in the studio."""
    with connect() as client, bytes_bar() as bar:
        operation = client.download_model(hub_id)
        task = bar.add_task(escape(hub_id), total=operation.total)
        while operation.state == "running":
            time.sleep(LOOK_SECONDS)
            operation = client.operation(operation.id)
            bar.update(task, completed=operation.done)
    if operation.state == "failed" and operation.error:
        raise Refused(422, operation.error.model_dump())
    if operation.state != "succeeded":
        raise Refused(409, {"message": f"The download was {operation.state}."})
    typer.echo(f"{hub_id} is here.")


def in_millions(base: BaseOut | HubModelOut) -> str:
    count = base.facts.get("parameters")
    return f"{count / 1e6:,.1f} M" if count else ""
