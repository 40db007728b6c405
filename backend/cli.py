"""The command `studio`. Each command imports what it needs, so that `studio --help` is quick."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from backend.core.errors import StudioError, Unavailable
from backend.core.settings import settings

PARTS = ("dataset", "run", "artifact", "model", "token")
"""Groups of commands, each a module of `backend.commands` with its own `app`."""


class Commands(TyperGroup):
    """The groups are imported when they are asked for: the web starts without them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *PARTS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in PARTS:
            return super().get_command(ctx, cmd_name)
        group = typer.main.get_group(import_module(f"backend.commands.{cmd_name}").app)
        group.name = cmd_name
        return group


app = typer.Typer(
    name="studio",
    cls=Commands,
    help="Finetune Studio: see what a model would learn, watch it live, download what is proved.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def up() -> None:
    """Serve everything from one folder on this machine: Postgres, Valkey, web and worker."""
    from backend.embedded import studio

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    studio.up(settings())


@app.command()
def demo() -> None:
    """Fine-tune a small model in two minutes, show what changed, and keep serving. STUDIO_DEMO_EXIT=1 ends it then."""
    from backend.commands.demo import demo as show

    show(settings(), ends=os.environ.get("STUDIO_DEMO_EXIT") == "1")


@app.command()
def web(listen_fd: Annotated[int | None, typer.Option(hidden=True)] = None) -> None:
    """Serve the web alone, with the Postgres and Redis that DATABASE_URL and REDIS_URL name."""
    from backend.core.unfinished import refuse_unfinished
    from backend.embedded.studio import listen, require_services

    here = settings()
    require_services(here)
    refuse_unfinished(here.root)
    gc.disable()  # an eighth of the start went into looking for garbage among modules, which are none
    import uvicorn

    from backend.web.app import create_app
    from backend.web.bodies import Line

    listener = listen(here.host, here.port) if listen_fd is None else socket.socket(fileno=listen_fd)
    # Event streams never end by themselves: without a deadline the server would wait for them for ever.
    # No access log: addresses may carry what nobody else should read, such as the set-up link's token.
    application = create_app(here)
    gc.enable()
    gc.freeze()
    config = uvicorn.Config(application, http=Line, access_log=False, server_header=False, timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listener])


@app.command()
def worker() -> None:
    """Serve as a worker host, with the Postgres and Redis that DATABASE_URL and REDIS_URL name."""
    from backend.embedded import studio

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    studio.work(settings())


@app.command()
def migrate() -> None:
    """Bring the database that DATABASE_URL names to today's tables. A restore that was killed is put in order before."""
    from backend.core import restore
    from backend.core.db import migrate as to_newest
    from backend.embedded.studio import require_services

    require_services(settings())
    restore.mend(settings(), settings().database_url)
    to_newest(settings().database_url)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Where to write it; nothing is overwritten.")],
    models: Annotated[bool, typer.Option("--models", help="Base models of the home too.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: read FILE and say whether it is whole.")
    ] = False,
) -> None:
    """Write the whole studio into FILE, while it works or stands still: tables, data sets, checkpoints, artifacts."""
    from backend.commands import backup as commands

    if check:
        commands.check(file)
    else:
        commands.back_up(settings(), file, models=models)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="What `studio backup` wrote.")],
    replace: Annotated[bool, typer.Option("--replace", help="Remove the studio that is here.")] = False,
    keep_sign_ins: Annotated[bool, typer.Option("--keep-sign-ins", help="Let browsers stay signed in.")] = False,
) -> None:
    """Make STUDIO_HOME, and DATABASE_URL where it is set, the studio that FILE holds. Nothing may serve it meanwhile."""
    from backend.commands import backup as commands

    commands.bring_back(settings(), file, replace=replace, keep_sign_ins=keep_sign_ins)


@app.command()
def doctor() -> None:
    """Say what this machine has and what it lacks, and how to get it."""
    from backend.doctor import examine

    findings = examine(settings())
    for finding in findings:
        typer.echo(str(finding))
    raise typer.Exit(1 if any(finding.is_fatal for finding in findings) else 0)


def main() -> None:
    """Errors that a person can act on are told in words; only others show where in the code they arose.

    Exits with 0 for done, 1 for refused or failed, 2 for a command that is written wrong, 3 where something cannot be reached.
    """
    try:
        app()
    except StudioError as error:
        typer.secho(f"Error: {error}", err=True, fg="red")
        sys.exit(3 if isinstance(error, Unavailable) else 1)


if __name__ == "__main__":
    main()
