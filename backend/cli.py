"""The command `studio`. Each command imports what it needs, so that `studio --help` is quick."""

from __future__ import annotations

import logging
import socket
import sys
from typing import Annotated

import typer

from backend.core.errors import StudioError
from backend.core.settings import settings

app = typer.Typer(
    name="studio",
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
def web(listen_fd: Annotated[int | None, typer.Option(hidden=True)] = None) -> None:
    """Serve the web alone, with the Postgres and Redis that DATABASE_URL and REDIS_URL name."""
    from backend.embedded.studio import listen, require_services

    here = settings()
    require_services(here)
    import uvicorn

    from backend.web.app import create_app

    listener = listen(here.host, here.port) if listen_fd is None else socket.socket(fileno=listen_fd)
    # Event streams never end by themselves: without a deadline the server would wait for them for ever.
    config = uvicorn.Config(create_app(here), server_header=False, timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listener])


@app.command()
def worker() -> None:
    """Serve as a worker host, with the Postgres and Redis that DATABASE_URL and REDIS_URL name."""
    from backend.embedded import studio

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    studio.work(settings())


@app.command()
def migrate() -> None:
    """Bring the database that DATABASE_URL names to today's tables."""
    from backend.core.db import migrate as to_newest
    from backend.embedded.studio import require_services

    require_services(settings())
    to_newest(settings().database_url)


@app.command()
def doctor() -> None:
    """Say what this machine has and what it lacks, and how to get it."""
    from backend.doctor import examine

    findings = examine(settings())
    for finding in findings:
        typer.echo(str(finding))
    raise typer.Exit(1 if any(finding.is_fatal for finding in findings) else 0)


def main() -> None:
    """Errors that a person can act on are told in words; only others show where in the code they arose."""
    try:
        app()
    except StudioError as error:
        typer.secho(f"Error: {error}", err=True, fg="red")
        sys.exit(1)


if __name__ == "__main__":
    main()
