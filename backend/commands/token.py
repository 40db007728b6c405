"""`studio token`: API tokens, made on the host of the studio by whoever may read its database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from backend.commands.access import database_url
from backend.core import db, people
from backend.core.errors import Unavailable
from backend.core.models import Role
from backend.core.settings import settings

app = typer.Typer(help="API tokens for programs.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    user: Annotated[str, typer.Option(help="Whose token it is; the machine's own account by default.")] = "",
    role: Annotated[Role, typer.Option(help="What it may do; never more than its owner.")] = Role.MEMBER,
    days: Annotated[int, typer.Option(min=0, max=3650, help="Until it runs out; 0 never does.")] = 90,
) -> None:
    """Make a token. Its secret is printed, once, and nothing else on standard output."""
    with database() as session:
        machine = people.this_machine(session)
        owner = people.find(session, user) if user else machine
        made = people.create_token(session, owner, name, role=role, days=days or None, by=machine.id)
    typer.echo(made.secret)
    typer.echo("It is not stored and cannot be shown again. Send it as “Authorization: Bearer …”.", err=True)


@app.command("list")
def list_tokens() -> None:
    """Show every token: id, beginning, owner, role, name and until when it holds."""
    with database() as session:
        for row, owner in people.tokens(session):
            until = f"until {row.expires_at:%Y-%m-%d}" if row.expires_at else "for ever"
            typer.echo(
                f"{row.id}  {row.prefix}…  {owner}  {row.role}  {row.name}  {'revoked' if row.revoked_at else until}"
            )


@app.command()
def revoke(token: Annotated[str, typer.Argument(help="The token's id, as `studio token list` shows it.")]) -> None:
    """Refuse a token from now on."""
    with database() as session:
        row = people.revoke_token(session, token, owner_id=None, by=people.this_machine(session).id)
        typer.echo(f"“{row.name}” is refused from now on.")


@contextmanager
def database() -> Iterator[Session]:
    """One transaction on the studio's database. Raises `Unavailable` where it cannot be reached."""
    try:
        with (
            db.engine_once(database_url(settings())) as engine,
            Session(engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session
    except OperationalError as error:
        hint = "Start the studio with `studio up`, or set DATABASE_URL."
        raise Unavailable(f"The studio's database cannot be reached: {error.orig}.", hint=hint) from error
