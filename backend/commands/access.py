"""Where the studio is, and by what right a command talks to it.

`STUDIO_URL` and `STUDIO_TOKEN` name any studio. Without them a command talks to the one that serves `STUDIO_HOME` on this
machine, with a token that is made on first use and kept in the home, where only its owner can read it. One that holds no
more makes room for a new one: it may have been revoked, and a restored database never knew it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from backend.core.errors import Unauthenticated, Unavailable
from backend.core.settings import Settings

TOKEN_FILE = "cli-token"


@dataclass(frozen=True)
class Access:
    """The address of a studio, without a slash at its end, and an API token."""

    address: str
    token: str


def find_access(settings: Settings) -> Access:
    """Raises `Unavailable` where no studio is known, and `Unauthenticated` where a token is needed and not given."""
    address = os.environ.get("STUDIO_URL", "").rstrip("/")
    token = os.environ.get("STUDIO_TOKEN", "")
    if not address:
        local = local_address(settings.root)
        return Access(local, token or local_token(settings))
    if not token:
        hint = "Make one there (Settings, or `studio token create`) and set STUDIO_TOKEN."
        raise Unauthenticated(f"{address} asks for an API token.", hint=hint)
    return Access(address, token)


def local_address(home: Path) -> str:
    """What `studio up` wrote into the home when it began to serve."""
    try:
        return (home / "run" / "address").read_text().strip()
    except OSError:
        hint = "Start it with `studio up`, or set STUDIO_URL and STUDIO_TOKEN to use another."
        raise Unavailable(f"No studio has served {home} yet.", hint=hint, code="no_studio") from None


def local_token(settings: Settings) -> str:
    """The token of this machine's own commands: from the home while it holds, else made in the database and kept there."""
    from backend.embedded.home import private_folder, write_private

    file, url = private_folder(settings.root / "run") / TOKEN_FILE, database_url(settings)
    kept = file.read_text().strip() if file.exists() else ""
    if kept and still_holds(url, kept):
        return kept
    made = make_token(url)
    write_private(file, made + "\n")
    return made


def database_url(settings: Settings) -> str:
    """The database of the studio that serves this home."""
    from backend.embedded.postgres import Postgres

    return settings.database_url or Postgres(settings.root).url


def still_holds(url: str, token: str) -> bool:
    """Whether the studio takes this token. Where the database gives no answer it is believed: the studio says what is away."""
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.orm import Session

    from backend.core import db, people

    try:
        with db.engine_once(url) as engine, Session(engine) as session:
            return people.find_credential(session, "token", people.hashed(token)) is not None
    except SQLAlchemyError:
        return True


def make_token(url: str) -> str:
    """A token of the machine's own account. Raises `Unavailable` where the database cannot be reached, and `Unauthenticated`
    where that account is disabled: no token of it would hold."""
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.orm import Session

    from backend.core import db, people
    from backend.core.models import Role

    try:
        with db.engine_once(url) as engine, Session(engine) as session, session.begin():
            owner = people.this_machine(session)
            if owner.disabled_at:
                hint = "Ask an administrator to enable it, or set STUDIO_TOKEN."
                raise Unauthenticated(f"The account “{owner.name}” is disabled.", hint=hint)
            return people.create_token(session, owner, "commands", role=Role.ADMIN, days=None, by=owner.id).secret
    except OperationalError as error:
        hint = "Start the studio with `studio up`, or set STUDIO_TOKEN."
        raise Unavailable(f"The studio's database cannot be reached: {error.orig}.", hint=hint) from error
