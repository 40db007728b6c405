"""Where the studio is, and by what right a command talks to it.

`STUDIO_URL` and `STUDIO_TOKEN` name any studio. Without them a command talks to the one that serves `STUDIO_HOME` on this
machine, with a token that is made on first use and kept in the home, where only its owner can read it. One that the studio
refuses makes room for a new one: it may have been revoked, and a restored database never knew it. Where that studio has ended,
anybody on the machine may listen at its port: nothing is sent there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backend.core.errors import Unauthenticated, Unavailable
from backend.core.settings import Settings

TOKEN_FILE = "cli-token"
LOCK_SECONDS = 30.0
"""A database that does not answer is given up sooner."""


@dataclass(frozen=True)
class Access:
    """The address of a studio, without a slash at its end, and an API token."""

    address: str
    token: str
    renew: Callable[[str], str] | None = None
    """Gives another token for one that the studio refuses. None where a person gave the token: it is theirs to replace."""
    serves: Callable[[], bool] = lambda: True
    """Whether the studio still is at the address, as far as can be known without asking there."""


def find_access(settings: Settings) -> Access:
    """Raises `Unavailable` where no studio is known, and `Unauthenticated` where a token is needed and not given."""
    address = os.environ.get("STUDIO_URL", "").rstrip("/")
    token = os.environ.get("STUDIO_TOKEN", "")
    if not address:
        return local_access(settings, token)
    if not token:
        hint = "Make one there (Settings, or `studio token create`) and set STUDIO_TOKEN."
        raise Unauthenticated(f"{address} asks for an API token.", hint=hint)
    return Access(address, token)


def local_access(settings: Settings, given: str = "") -> Access:
    """To the studio that serves this home, by the token that is `given`, else by that of this machine's own commands."""
    address = local_address(settings.root)
    serves = partial(serves_at, settings.root, address)
    if given:
        return Access(address, given, serves=serves)
    return Access(address, local_token(settings), partial(new_token, settings), serves)


def local_address(home: Path) -> str:
    """Of the `studio up` that serves this home. Raises `Unavailable` where none does, though one that was killed left its own."""
    if address := announced(home):
        return address
    hint = "Start it with `studio up`, or set STUDIO_URL and STUDIO_TOKEN to use another."
    raise Unavailable(f"No studio serves {home}.", hint=hint, code="no_studio")


def serves_at(home: Path, address: str) -> bool:
    return announced(home) == address


def announced(home: Path) -> str:
    """Empty where no studio serves this home."""
    from backend.embedded.home import noted

    return noted(home / "run" / "address")


def local_token(settings: Settings) -> str:
    """The token of this machine's own commands: as it is kept in the home, else made. Whether it holds, the studio says."""
    return kept_token(settings.root) or new_token(settings)


def kept_token(home: Path) -> str:
    """Empty where there is none."""
    from backend.embedded.home import private_folder

    file = private_folder(home / "run") / TOKEN_FILE
    return file.read_text().strip() if file.exists() else ""


def new_token(settings: Settings, refused: str = "") -> str:
    """The kept token in place of one that was refused, or of none. Of commands that lack it at once the first makes it and the
    others find it: it has no end, so none may be made that nobody keeps."""
    from backend.embedded.home import lock, private_folder, write_private

    folder = private_folder(settings.root / "run")
    held = lock(folder / f"{TOKEN_FILE}.lock", wait_seconds=LOCK_SECONDS)
    try:
        kept = kept_token(settings.root)
        if kept not in ("", refused):
            return kept
        made = make_token(database_url(settings), refused)
        write_private(folder / TOKEN_FILE, made + "\n")
        return made
    finally:
        os.close(held)


def database_url(settings: Settings) -> str:
    """The database of the studio that serves this home. Raises `Unavailable` where it is none of our own and not named."""
    from backend.embedded.postgres import Postgres

    if settings.database_url:
        return settings.database_url
    own = Postgres(settings.root)
    if not own.is_begun:
        hint = "Start the studio with `studio up`, or set DATABASE_URL."
        raise Unavailable(f"There is no database in {settings.root}.", hint=hint)
    return own.url


def make_token(url: str, refused: str = "") -> str:
    """A token of the machine's own account. Raises `Unavailable` where the database cannot be reached, and `Unauthenticated`
    where a new token would hold no more than the `refused` one: that account is disabled, or the studio asks another database
    than this one, which knows it."""
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
            if refused and people.find_credential(session, "token", people.hashed(refused)):
                hint = "Set DATABASE_URL to the studio's own, or STUDIO_TOKEN."
                raise Unauthenticated("The studio does not use the database that is set here.", hint=hint)
            return people.create_token(session, owner, "commands", role=Role.ADMIN, days=None, by=owner.id).secret
    except OperationalError as error:
        hint = "Start the studio with `studio up`, or set STUDIO_TOKEN."
        raise Unavailable(f"The studio's database cannot be reached: {error.orig}.", hint=hint) from error
