"""`studio run …`: launch, follow, stop, pause, resume, list."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.commands.client import Client, Refused, connect
from backend.commands.output import AsJson, Columns, console, errors, print_list, when
from backend.core.errors import BadRequest, Problem
from backend.core.yaml12 import read_yaml
from backend.web.shapes.runs import RunDetailOut

app = typer.Typer(no_args_is_help=True, help="Runs: launch, follow, stop, pause, resume, list.")

Name = Annotated[str, typer.Argument(help="The run's name or id.")]
SHORT_FOR = {"model": "path", "stage": "kind", "method": "kind"}
"""What a bare string of a recipe stands for."""
Lines = Mapping[tuple[str | int, ...], int]
Follow = Annotated[bool, typer.Option("--follow", help="Watch it until it ends.")]


@app.command()
def start(
    file: Annotated[Path, typer.Option("-f", "--file", exists=True, dir_okay=False, help="A recipe, in YAML or JSON.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="A setting that replaces the recipe's.")
    ] = None,
    follow: Follow = False,
) -> None:
    """Launch a run from a recipe."""
    recipe, lines = read_recipe_file(file)
    for setting in settings or ():
        recipe = with_setting(recipe, setting)
    with connect() as client:
        try:
            run = client.launch(recipe)
        except Refused as refused:
            raise at_lines(refused, file.name, lines) from None
        typer.echo(f"{run.name} is {run.state}.")
        if follow:
            follow_to_the_end(client, run.name)


def read_recipe_file(file: Path) -> tuple[dict[str, Any], Lines]:
    """The recipe, and the line of each setting. Raises `BadRequest` naming the file and the line."""
    try:
        body, lines = read_yaml(file.read_text(encoding="utf-8"))
    except BadRequest as error:
        raise BadRequest(error.message, where=f"{file.name}, {error.where}", hint=error.hint) from None
    except UnicodeDecodeError:
        raise BadRequest("The recipe is not UTF-8.", where=file.name) from None
    if not isinstance(body, dict):
        raise BadRequest("A recipe is a mapping of settings.", where=file.name, hint="It starts with model: and data:.")
    return body, lines


def with_setting(recipe: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """`training.max_steps=10` set in a recipe; the value is read as YAML. Raises `BadRequest`."""
    path, equals, text = setting.partition("=")
    if not equals or not all(path.split(".")):
        raise BadRequest(f"“{setting}” sets nothing.", where="--set", hint="Write it like training.max_steps=10.")
    group, *rest = path.split(".")
    if not rest:
        return {**recipe, group: read_yaml(text)[0]}
    inner = recipe.get(group, {})
    if isinstance(inner, str) and group in SHORT_FOR:
        inner = {SHORT_FOR[group]: inner}
    if not isinstance(inner, Mapping):
        raise BadRequest(f"“{group}” is no group of settings here.", where=f"--set {setting}")
    return {**recipe, group: with_setting(inner, f"{'.'.join(rest)}={text}")}


def at_lines(refused: Refused, file: str, lines: Lines) -> Refused:
    """The same refusal, its problems at the lines of the file where their settings stand."""
    known = {".".join(map(str, path)): line for path, line in lines.items() if path}
    problems = [_at_line(problem, file, known) for problem in refused.problems]
    body = {"code": refused.code, "message": refused.message, "where": refused.where, "hint": refused.hint}
    return Refused(refused.status, body | {"problems": [problem.as_json() for problem in problems]})


def _at_line(problem: Problem, file: str, known: Mapping[str, int]) -> Problem:
    line = next((known[place] for place in _upwards(problem.where) if place in known), None)
    where = f"{file}, line {line}: {problem.where}" if line else problem.where
    return Problem(problem.code, problem.message, where, problem.hint)


def _upwards(where: str) -> Iterable[str]:
    """`a.b.c`, then `a.b`, then `a`: a setting that is missing is told at its group."""
    while where:
        yield where
        where = where.rpartition(".")[0]


@app.command()
def follow(name: Name) -> None:
    """Watch a run until it ends. Ctrl-C leaves it running."""
    with connect() as client:
        follow_to_the_end(client, name)


def follow_to_the_end(client: Client, name: str) -> None:
    """Watch a run; exit with 1 where it failed."""
    from backend.commands.following import display, watch

    try:
        run = watch(client, name, display(console(), name))
    except KeyboardInterrupt:
        errors().print(f"\nNo longer following. The run goes on: studio run follow “{name}”", markup=False)
        raise typer.Exit(0) from None
    tell(run)
    if run.state == "failed":
        raise typer.Exit(1)


def tell(run: RunDetailOut) -> None:
    """How a run stands, in a line."""
    cause = " ".join(filter(None, (run.cause.message, run.cause.hint))) if run.cause else ""
    steps = f"step {run.step}" + (f" of {run.total_steps}" if run.total_steps else "")
    typer.echo(f"{run.name} is {run.state} at {steps}. {cause}".rstrip())


@app.command()
def stop(
    name: Name,
    keep: Annotated[
        bool | None, typer.Option("--keep/--discard", help="Export what was learned so far, or give it up.")
    ] = None,
) -> None:
    """End a run: --keep exports what was learned so far, and it can be resumed; --discard makes nothing, and can be undone."""
    if keep is None:
        raise typer.BadParameter("say --keep or --discard")
    _tell(name, "stop", keep=keep)


@app.command()
def pause(name: Name) -> None:
    """Save, exit and free the accelerator."""
    _tell(name, "pause")


@app.command()
def resume(name: Name) -> None:
    """Go on from the newest checkpoint."""
    _tell(name, "resume")


def _tell(name: str, word: str, **body: bool) -> None:
    with connect() as client:
        run = client.tell(name, word, **body)
    typer.echo(f"{run.name} is {run.state}, and was told to {run.intent}.")


@app.command()
def show(name: Name) -> None:
    """Everything about a run, in JSON."""
    with connect() as client:
        typer.echo(json.dumps(client.run(name).model_dump(mode="json"), indent=2, ensure_ascii=False))


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    as_json: AsJson = False,
) -> None:
    """Runs, the newest first."""
    with connect() as client:
        found = client.runs(limit)
    columns: Columns = {
        "NAME": [each.name for each in found],
        "STATE": [each.state for each in found],
        "STEP": [f"{each.step}/{each.total_steps or '?'}" for each in found],
        "MODEL": [each.model for each in found],
        "METHOD": [each.method for each in found],
        "CREATED": [when(each.created_at) for each in found],
    }
    print_list(found, columns, as_json=as_json)
