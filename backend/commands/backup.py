"""`studio backup` and `studio restore`: a whole studio into one file, and back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import typer

from backend.commands.output import bytes_bar
from backend.core import backup, restore
from backend.core.bundle import Contents, Tell
from backend.core.errors import NotFound
from backend.core.settings import Settings


def back_up(settings: Settings, path: Path, *, models: bool) -> None:
    """Write the archive, and say what is in it."""
    os.umask(0o077)
    with database_of(settings) as url, progress("Backing up") as tell:
        made = backup.back_up(settings, url, path, models=models, tell=tell)
    typer.echo(f"{path}: {made.bytes:,} bytes, {counted(made.contents)}")
    remarks = [f"Not to be had: {name}" for name in made.contents.missing]
    if made.elsewhere:
        remarks.append(f"The files of {made.elsewhere} runs lie with other workers and are not in it.")
    if not models:
        remarks.append("Base models are not in it; --models adds those of the home.")
    for remark in [*remarks, "Keep it like a password: it holds the accounts, as hashes."]:
        typer.echo(remark, err=True)


def check(path: Path) -> None:
    """Read every byte of an archive, and say that all are right."""
    with progress("Checking") as tell:
        contents = restore.check(path, tell)
    typer.echo(f"{path} is whole: {counted(contents)}")


def bring_back(settings: Settings, path: Path, *, replace: bool, keep_sign_ins: bool) -> None:
    """Restore the archive into this home and its database."""
    os.umask(0o077)
    with own_database(settings) as url, progress("Restoring") as tell:
        made = restore.restore(settings, url, path, replace=replace, keep_sign_ins=keep_sign_ins, tell=tell)
    typer.echo(f"{settings.root} is the studio of {made.contents.made_at:%Y-%m-%d %H:%M} UTC again.")
    typer.echo("Accounts and tokens are those of that moment: revoke again what was revoked since.", err=True)
    if made.going_on:
        typer.echo(f"Go on from their checkpoints: {', '.join(made.going_on)}", err=True)


def counted(contents: Contents) -> str:
    return f"{len(contents.tables)} tables and {len(contents.files) - len(contents.tables)} files"


@contextmanager
def progress(title: str) -> Iterator[Tell]:
    """A line on stderr that counts bytes."""
    with bytes_bar() as bar:
        task = bar.add_task(title, total=None)
        yield lambda _name, count: bar.advance(task, count)


@contextmanager
def database_of(settings: Settings) -> Iterator[str]:
    """The database of this home, whether a studio serves it now or not. Raises `NotFound` where there never was one."""
    from backend.embedded.home import Locked
    from backend.embedded.postgres import Postgres

    if settings.database_url:
        yield settings.database_url
        return
    embedded = Postgres(settings.root)
    if not (embedded.data / "PG_VERSION").exists():
        raise NotFound(f"No studio has lived in {settings.root} yet.", hint="STUDIO_HOME names its folder.")
    with ExitStack() as stack:
        try:
            url = stack.enter_context(own_database(settings))
        except Locked:  # it is being served, so its Postgres runs
            url = embedded.url
        yield url


@contextmanager
def own_database(settings: Settings) -> Iterator[str]:
    """The same, for us alone. Raises `Locked` while a studio serves this home."""
    from backend.embedded.home import prepare_home
    from backend.embedded.postgres import start_postgres
    from backend.embedded.studio import only_one

    home = prepare_home(settings.root)
    with only_one(home):
        if settings.database_url:
            yield settings.database_url
            return
        service = start_postgres(home)
        try:
            yield service.url
        finally:
            service.stop()
