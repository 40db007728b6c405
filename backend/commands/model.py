"""`studio model …`: the base models that a run can start from."""

from __future__ import annotations

import typer

from backend.commands.client import connect
from backend.commands.output import AsJson, Columns, print_list
from backend.web.shapes import BaseOut

app = typer.Typer(no_args_is_help=True, help="Base models.")


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Models under the model roots; those that cannot be used say why."""
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


def in_millions(base: BaseOut) -> str:
    count = base.facts.get("parameters")
    return f"{count / 1e6:,.1f} M" if count else ""
