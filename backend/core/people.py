"""People, how they sign in, and the tokens of their programs.

Secrets are 256 random bits and are stored hashed with SHA-256; passwords are stored with Argon2id. Functions take a
synchronous `Session` and commit nothing. The slow hashing of passwords is apart from the database, so that the web can do
it in a thread, two at a time.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from sqlalchemy import Select, delete, func, select, text, update
from sqlalchemy.orm import Session

from backend.core.audit import asking_address, asking_token
from backend.core.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from backend.core.ids import as_uuid
from backend.core.models import ApiToken, Audit, Invitation, Role, SetupToken, SignIn, User
from backend.core.recipe import NAME

if TYPE_CHECKING:
    from pwdlib import PasswordHash

ROLES = (Role.VIEWER, Role.MEMBER, Role.ADMIN)
TOKEN_PREFIX = "fts_"
MIN_PASSWORD, MAX_PASSWORD_BYTES = 8, 1024
"""Argon2 takes longer with the length: 10 MB would take 0.4 s of a core."""
NO_PASSWORD = ""
"""In place of a password's hash: nothing fits it."""
THIS_MACHINE = "this machine"
USED_EVERY = timedelta(minutes=1)
"""How exactly the last use of an account, a sign-in or a token is known; finer would write at each request."""
INVITATION_DAYS = 7


@dataclass(frozen=True)
class Identity:
    """Who asks, and by what right."""

    id: UUID
    name: str
    role: Role
    language: str | None
    created_at: datetime
    via: Literal["session", "token"]
    credential: str
    """The hash of the session's or token's secret: it names the sign-in without giving it away."""
    csrf_token: str = ""
    expires_at: datetime | None = None
    seen_at: datetime | None = None
    token_id: UUID | None = None
    """Of the token that asks, where one does."""
    token_name: str | None = None

    @property
    def is_stale(self) -> bool:
        """Whether this request is worth writing down as the last one."""
        return self.seen_at is None or self.seen_at < datetime.now(UTC) - USED_EVERY

    def may(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


def hashed(secret: str) -> str:
    """Secrets of 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


# ---- passwords ------------------------------------------------------------------------------------------------------


@cache
def _hasher() -> PasswordHash:
    from pwdlib import PasswordHash

    return PasswordHash.recommended()


@cache
def _nobodys_hash() -> str:
    return _hasher().hash(secrets.token_urlsafe())


def hash_password(password: str) -> str:
    """Argon2id; takes about 0.2 s and 64 MiB. Raises `Invalid` where the password is too short or too long."""
    check_password(password)
    return _hasher().hash(password)


def check_password(password: str) -> None:
    if len(password) < MIN_PASSWORD:
        raise Invalid(
            f"A password has at least {MIN_PASSWORD} characters.", where="password", hint="Four words make a good one."
        )
    if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES:
        raise Invalid(f"A password has at most {MAX_PASSWORD_BYTES:,} bytes.", where="password")


def password_matches(password: str, password_hash: str | None) -> bool:
    """Takes as long for somebody unknown (`None`), so that the time tells nothing."""
    if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES:
        return False
    return _hasher().verify(password, password_hash or _nobodys_hash()) and bool(password_hash)


# ---- the first administrator ----------------------------------------------------------------------------------------


def setup_link(session: Session, folder: Path) -> str | None:
    """The path and query of the one-time set-up page, kept in `folder/setup-link`; None once somebody exists.

    A restart keeps the link that was printed, as long as nobody has used it.
    """
    file = folder / "setup-link"
    if somebody_exists(session):
        file.unlink(missing_ok=True)
        return None
    kept = file.read_text().strip() if file.exists() else ""
    known = session.get(SetupToken, hashed(kept.rpartition("=")[2]))
    if known is not None:
        return kept
    token = secrets.token_urlsafe(32)
    session.execute(delete(SetupToken))
    session.add(SetupToken(token_hash=hashed(token)))
    link = f"/setup?token={token}"
    _write_private(file, link)
    return link


def somebody_exists(session: Session) -> bool:
    """Whether there is anybody who can sign in; the machine's own account cannot."""
    return session.scalar(select(User.id).where(User.password_hash != NO_PASSWORD).limit(1)) is not None


def this_machine(session: Session) -> User:
    """The account of commands that are typed on the studio's own machine, made on first use.

    Whoever can read the home folder can read the whole database, so it gives nobody a right that they had not. It has
    no password and cannot sign in, and it can be disabled like any other.
    """
    return by_name(session, THIS_MACHINE) or create(session, THIS_MACHINE, NO_PASSWORD, Role.ADMIN, by=None)


def _write_private(file: Path, content: str) -> None:
    file.unlink(missing_ok=True)
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(content + "\n")


def check_setup_token(session: Session, token: str) -> SetupToken:
    """The token's row, locked. Raises `Forbidden` where it is unknown or used."""
    row = session.get(SetupToken, hashed(token), with_for_update=True)
    if row is None or row.used_at is not None or somebody_exists(session):
        raise Forbidden(
            "This set-up link was used already, or is not the newest one.",
            hint="Sign in, or restart the studio for a fresh link where nobody exists yet.",
        )
    return row


def create_first_admin(session: Session, token: str, name: str, password_hash: str) -> User:
    """Use up the set-up link. The lock on the token's row lets one of two at once through."""
    row = check_setup_token(session, token)
    row.used_at = datetime.now(UTC)
    return create(session, name, password_hash, Role.ADMIN, by=None)


# ---- people ---------------------------------------------------------------------------------------------------------


def listing(session: Session, limit: int | None = None, offset: int = 0) -> list[User]:
    return list(session.scalars(select(User).order_by(func.lower(User.name)).limit(limit).offset(offset)))


def find(session: Session, name_or_id: str) -> User:
    """By what somebody wrote; for who asks, there is `by_id`. Raises `NotFound`."""
    found = ((key := as_uuid(name_or_id)) and session.get(User, key)) or by_name(session, name_or_id)
    if not found:
        raise NotFound(f"There is nobody called “{name_or_id}”.", code="people.unknown")
    return found


def by_id(session: Session, user_id: UUID) -> User:
    """Raises `Unauthenticated` where the account is gone."""
    return _here(session.get(User, user_id))


def _here(user: User | None) -> User:
    if user is None:
        raise Unauthenticated("This account was removed.", hint="Ask an administrator.")
    return user


def by_name(session: Session, name: str) -> User | None:
    return session.scalar(select(User).where(func.lower(User.name) == name.strip().lower()))


def create(session: Session, name: str, password_hash: str, role: Role, *, by: Identity | None) -> User:
    """Raises `Invalid` for a bad name and `Conflict` for one that is taken."""
    name = name.strip()
    if not NAME.fullmatch(name):
        raise Invalid("A person's name holds letters, digits, spaces and _ . + -, at most 80.", where="name")
    if as_uuid(name):
        raise Invalid("A person's name does not look like an id: it would be taken for somebody else's.", where="name")
    is_machines = name.lower() == THIS_MACHINE and (by is not None or password_hash != NO_PASSWORD)
    if by_name(session, name) or is_machines:
        raise Conflict(f"Somebody is called “{name}” already.", where="name")
    _check_token_lets_in(role, by)
    user = User(name=name, password_hash=password_hash, role=role)
    session.add(user)
    session.flush()
    audit(session, by.id if by else user.id, "person.create", name, role=role)
    return user


def check_token_spares(user: User, by: Identity) -> None:
    """Raises `Forbidden` for a token that would change the account of its own owner: whoever found it could lock them out."""
    if by.via == "token" and by.id == user.id:
        raise Forbidden(
            "A token does not change its owner's account.", hint="Sign in, or use `studio token` on the host."
        )


def _check_token_lets_in(role: str, by: Identity | None) -> None:
    """Raises `Forbidden` where a person's token would let somebody in as an administrator, who could then lock its owner out.
    One of this machine was made by whoever has a shell there, to help an administrator who has lost a password."""
    if by and by.via == "token" and by.name != THIS_MACHINE and role == Role.ADMIN:
        raise Forbidden(
            "A token makes no administrators, and sets no password of theirs.",
            hint="Sign in, or use `studio token` on the host.",
        )


def set_role(session: Session, user: User, role: Role, *, by: Identity) -> None:
    check_token_spares(user, by)
    _check_token_lets_in(role, by)
    if user.role == Role.ADMIN and role != Role.ADMIN:
        _another_admin(session, user)
    user.role = role
    audit(session, by.id, "person.role", user.name, role=role)


def set_password(
    session: Session, user: User, password_hash: str, *, by: Identity, revoke_tokens: bool = False
) -> None:
    """Every other sign-in of that person ends, and a link that would set the password again no longer holds; their tokens
    end too, where that is asked for."""
    _check_is_person(user)
    check_token_spares(user, by)
    _check_token_lets_in(user.role, by)
    user.password_hash = password_hash
    _withdraw_invitations(session, user)
    end_sessions(session, user, but=by.credential)
    audit(session, by.id, "person.password", user.name)
    if revoke_tokens:
        revoke_all_tokens(session, user, by=by.id)


def _check_is_person(user: User) -> None:
    """Raises `Conflict` for the account of commands on this machine: nobody signs in as it."""
    if user.name == THIS_MACHINE:
        raise Conflict("The account of this machine has no password.", hint="Invite a person by a name of their own.")


def set_language(session: Session, user: User, language: str) -> None:
    user.language = language
    audit(session, user.id, "person.language", user.name, language=language)


def disable(session: Session, user: User, *, by: Identity) -> None:
    """That person cannot sign in and their tokens are refused, until enabled again."""
    check_token_spares(user, by)
    _another_admin(session, user)
    user.disabled_at = datetime.now(UTC)
    _withdraw_invitations(session, user)
    session.execute(delete(SignIn).where(SignIn.user_id == user.id))
    audit(session, by.id, "person.disable", user.name)


def enable(session: Session, user: User, *, by: Identity) -> None:
    """That person can sign in again, with the password that they had."""
    _check_token_lets_in(user.role, by)
    user.disabled_at = None
    audit(session, by.id, "person.enable", user.name)


def last_admin(session: Session) -> UUID | None:
    """The administrator besides whom nobody could let people in, if there is but one."""
    found = session.scalars(_admins().limit(2)).all()
    return found[0] if len(found) == 1 else None


def _admins() -> Select[UUID]:
    return select(User.id).where(User.role == Role.ADMIN, User.disabled_at.is_(None), User.password_hash != NO_PASSWORD)


def remove(session: Session, user: User, *, by: Identity) -> None:
    """Their sign-ins and tokens go too; their runs and data stay."""
    check_token_spares(user, by)
    _another_admin(session, user)
    audit(session, by.id, "person.remove", user.name)
    session.delete(user)


# ---- invitations ----------------------------------------------------------------------------------------------------


def invite(session: Session, user: User, *, by: Identity) -> str:
    """The secret of a link by which `user` sets their password, once; a link before it no longer holds."""
    _check_is_person(user)
    check_token_spares(user, by)
    _check_token_lets_in(user.role, by)
    secret = secrets.token_urlsafe(32)
    _withdraw_invitations(session, user)
    expires_at = datetime.now(UTC) + timedelta(days=INVITATION_DAYS)
    session.add(Invitation(token_hash=hashed(secret), user_id=user.id, expires_at=expires_at))
    audit(session, by.id, "person.invite", user.name)
    return secret


def invited(session: Session, secret: str) -> User:
    """Whom the link is for; its row is locked, so that one of two who use it at once gets through. Raises `Forbidden`."""
    row = session.get(Invitation, hashed(secret), with_for_update=True)
    user = session.get(User, row.user_id) if row else None
    if row is None or user is None or row.expires_at < datetime.now(UTC) or user.disabled_at:
        raise Forbidden(
            "This link was used already, or is not the newest one, or is too old.",
            hint="Ask an administrator for a fresh one.",
            code="people.invitation",
        )
    return user


def accept(session: Session, secret: str, password_hash: str) -> User:
    """Set the password and use the link up. Sign-ins of before end."""
    user = invited(session, secret)
    user.password_hash = password_hash
    end_sessions(session, user)
    _withdraw_invitations(session, user)
    audit(session, user.id, "person.accept", user.name)
    return user


def _withdraw_invitations(session: Session, user: User) -> None:
    session.execute(delete(Invitation).where(Invitation.user_id == user.id))


def open_invitations(session: Session) -> dict[UUID, Invitation]:
    """The links that still hold, by person."""
    rows = session.scalars(select(Invitation).where(Invitation.expires_at > func.clock_timestamp()))
    return {row.user_id: row for row in rows}


def _another_admin(session: Session, user: User) -> None:
    """Raises `Conflict` where `user` is the last administrator. All administrators are locked, so that two who remove
    each other at once do not both succeed."""
    admins = session.scalars(_admins().order_by(User.id).with_for_update()).all()
    if user.id in admins and len(admins) == 1:
        raise Conflict(f"“{user.name}” is the last administrator.", hint="Make somebody else an administrator first.")


# ---- sign-ins -------------------------------------------------------------------------------------------------------


MOST_SIGN_INS = 100
"""Of one person: whoever signs in once more is signed out where they were not seen for longest."""


def sign_in(session: Session, user: User, user_agent: str, *, hours: int) -> str:
    """The secret of a fresh sign-in of the person as they were when their password fitted, for the cookie. Sign-ins that ran
    out, or are too many, are forgotten on the way. Raises `Unauthenticated` where the account is disabled or has another
    password by now."""
    verified = user.password_hash
    user = unchanged(session, user.id)
    if user.disabled_at:
        raise Unauthenticated("This account is disabled.", hint="Ask an administrator.")
    if user.password_hash != verified:
        raise Unauthenticated(
            "The password was changed at this moment.", hint="Sign in with the new one.", code="sign_in"
        )
    session.execute(delete(SignIn).where(SignIn.expires_at < func.clock_timestamp()))
    last_seen = func.coalesce(SignIn.seen_at, SignIn.created_at).desc()
    too_many = select(SignIn.token_hash).where(SignIn.user_id == user.id).order_by(last_seen).offset(MOST_SIGN_INS - 1)
    session.execute(delete(SignIn).where(SignIn.token_hash.in_(too_many)))
    secret = secrets.token_urlsafe(32)
    session.add(
        SignIn(
            token_hash=hashed(secret),
            user_id=user.id,
            csrf_token=secrets.token_urlsafe(24),
            user_agent=user_agent[:300],
            expires_at=datetime.now(UTC) + timedelta(hours=hours),
        )
    )
    audit(session, user.id, "sign_in", user.name)
    return secret


def unchanged(session: Session, user_id: UUID) -> User:
    """A person as they are now, and stay until this transaction ends: a password takes its time to check, and what it was
    checked against may be another's by then. Raises `Unauthenticated` where the account is gone."""
    query = select(User).where(User.id == user_id).with_for_update(key_share=True)
    return _here(session.scalar(query.execution_options(populate_existing=True)))


def has_signed_in(session: Session, name: str, address: str) -> bool:
    """Whether that person was let in from there before."""
    was = (Audit.action == "sign_in", Audit.address == address, func.lower(User.name) == name.strip().lower())
    return session.scalar(select(Audit.id).join(User, User.id == Audit.user_id).where(*was).limit(1)) is not None


def sign_out(session: Session, identity: Identity) -> None:
    session.execute(delete(SignIn).where(SignIn.token_hash == identity.credential))
    audit(session, identity.id, "sign_out", identity.name)


def sessions_of(session: Session, user_id: UUID) -> list[SignIn]:
    """A person's browsers, the last seen first."""
    query = select(SignIn).where(SignIn.user_id == user_id, SignIn.expires_at > func.clock_timestamp())
    return list(session.scalars(query.order_by(func.coalesce(SignIn.seen_at, SignIn.created_at).desc())))


def session_name(row: SignIn) -> str:
    """What a sign-in is called: it tells nothing of the secret, and nobody else's is told apart by it."""
    return row.token_hash[:16]


def end_session(session: Session, user_id: UUID, credential: str) -> None:
    """End one sign-in of that person, named by the beginning of its credential. Raises `NotFound`."""
    named = (row for row in sessions_of(session, user_id) if session_name(row) == credential)
    if (row := next(named, None)) is None:
        raise NotFound("There is no such session.", hint="It may have ended meanwhile.", code="sessions.unknown")
    session.delete(row)
    audit(session, user_id, "session.end", row.user_agent[:80])


def end_sessions(session: Session, user: User, *, but: str = "") -> int:
    """End every sign-in of that person but one; returns how many that were."""
    ended = session.execute(delete(SignIn).where(SignIn.user_id == user.id, SignIn.token_hash != but))
    return int(ended.rowcount)  # type: ignore[attr-defined]


def saw(session: Session, identity: Identity) -> None:
    """Write down that somebody was here."""
    now = func.clock_timestamp()
    session.execute(update(User).where(User.id == identity.id).values(seen_at=now))
    if identity.via == "session":
        session.execute(update(SignIn).where(SignIn.token_hash == identity.credential).values(seen_at=now))


def find_session(session: Session, secret: str) -> Identity | None:
    """Who the cookie's value stands for, if it still does."""
    return find_credential(session, "session", hashed(secret))


def find_bearer(session: Session, secret: str) -> Identity | None:
    """Who an API token stands for. Its role is never more than its owner's is now."""
    identity = find_credential(session, "token", hashed(secret))
    if identity and identity.is_stale:
        used = update(ApiToken).where(ApiToken.token_hash == identity.credential)
        session.execute(used.values(used_at=func.clock_timestamp()))
        saw(session, identity)
    return identity


def find_credential(session: Session, via: Literal["session", "token"], credential: str) -> Identity | None:
    """The identity behind the hash of a secret, if it holds now; a stream asks again while it lasts."""
    now = func.clock_timestamp()
    if via == "session":
        row = session.execute(
            select(User, SignIn).join(SignIn).where(SignIn.token_hash == credential, SignIn.expires_at > now)
        ).one_or_none()
        return _identity(row[0], Role(row[0].role), "session", row[1]) if row and not row[0].disabled_at else None
    unexpired = ApiToken.expires_at.is_(None) | (ApiToken.expires_at > now)
    found = session.execute(
        select(User, ApiToken)
        .join(ApiToken)
        .where(ApiToken.token_hash == credential, unexpired, ApiToken.revoked_at.is_(None))
    ).one_or_none()
    if not found or found[0].disabled_at:
        return None
    role = min(Role(found[0].role), Role(found[1].role), key=ROLES.index)
    return _identity(found[0], role, "token", found[1])


def holding(session: Session, credentials: Collection[str]) -> set[str]:
    """Of these hashes of secrets, those that hold now."""
    now, stands = func.clock_timestamp(), User.disabled_at.is_(None)
    sign_ins = select(SignIn.token_hash).join(User).where(SignIn.token_hash.in_(credentials), SignIn.expires_at > now)
    unexpired = ApiToken.expires_at.is_(None) | (ApiToken.expires_at > now)
    tokens = select(ApiToken.token_hash).join(User).where(ApiToken.token_hash.in_(credentials), unexpired)
    tokens = tokens.where(ApiToken.revoked_at.is_(None), stands)
    return set(session.scalars(sign_ins.where(stands).union_all(tokens)))


def _identity(user: User, role: Role, via: Literal["session", "token"], row: SignIn | ApiToken) -> Identity:
    csrf_token, seen_at = (row.csrf_token, row.seen_at) if isinstance(row, SignIn) else ("", row.used_at)
    return Identity(
        user.id,
        user.name,
        role,
        user.language,
        user.created_at,
        via,
        row.token_hash,
        csrf_token,
        row.expires_at,
        seen_at,
        *((row.id, row.name) if isinstance(row, ApiToken) else (None, None)),
    )


# ---- API tokens -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewToken:
    row: ApiToken
    secret: str


def create_token(
    session: Session, owner: User, name: str, *, role: Role, days: int | None, by: UUID | None
) -> NewToken:
    """A token for programs. `days` until it runs out; None never does. Raises `Forbidden` above the owner's role."""
    if ROLES.index(role) > ROLES.index(Role(owner.role)):
        raise Forbidden(f"A token cannot do more than its owner, who is {owner.role}.", where="role")
    if not NAME.fullmatch(name.strip()):
        raise Invalid("Give the token a name of letters, digits, spaces and _ . + -.", where="name")
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    row = ApiToken(
        user_id=owner.id,
        name=name.strip(),
        role=role,
        prefix=secret[: len(TOKEN_PREFIX) + 4],
        token_hash=hashed(secret),
        expires_at=datetime.now(UTC) + timedelta(days=days) if days else None,
    )
    session.add(row)
    session.flush()
    audit(session, by, "token.create", f"{owner.name}: {row.name}", role=role)
    return NewToken(row, secret)


def tokens(
    session: Session, owner_id: UUID | None = None, limit: int | None = None, offset: int = 0
) -> list[tuple[ApiToken, str]]:
    """Tokens with their owners' names, the newest first; of one person, or of everybody."""
    query = select(ApiToken, User.name).join(User).order_by(ApiToken.id.desc()).limit(limit).offset(offset)
    query = query.where(ApiToken.user_id == owner_id) if owner_id else query
    return [(row, name) for row, name in session.execute(query)]


def tokens_that_hold(session: Session, owner_id: UUID) -> int:
    """How many of that person's tokens are accepted now."""
    unexpired = ApiToken.expires_at.is_(None) | (ApiToken.expires_at > func.clock_timestamp())
    held = (ApiToken.user_id == owner_id, ApiToken.revoked_at.is_(None), unexpired)
    return session.scalar(select(func.count()).where(*held)) or 0


def revoke_all_tokens(session: Session, user: User, *, by: UUID | None) -> int:
    """Every token of that person is refused from now on; returns how many that were."""
    standing = (ApiToken.user_id == user.id, ApiToken.revoked_at.is_(None))
    revoked = session.execute(update(ApiToken).where(*standing).values(revoked_at=func.clock_timestamp()))
    count = int(revoked.rowcount)  # type: ignore[attr-defined]
    if count:
        audit(session, by, "token.revoke_all", user.name, count=count)
    return count


def revoke_token(session: Session, token_id: str, *, owner_id: UUID | None, by: UUID | None) -> ApiToken:
    """From now on it is refused. `owner_id` narrows to one person's own. Raises `NotFound`."""
    key = as_uuid(token_id)
    row = session.get(ApiToken, key) if key else None
    if row is None or (owner_id and row.user_id != owner_id):
        raise NotFound("There is no such token.", code="tokens.unknown")
    if row.revoked_at is None:
        row.revoked_at = datetime.now(UTC)
        owner = session.get_one(User, row.user_id)
        audit(session, by, "token.revoke", f"{owner.name}: {row.name}")
    return row


def audit(session: Session, user_id: UUID | None, action: str, subject: str, **data: Any) -> None:
    """Write down what `user_id` did to what, and in `via` by which token, where one asked for it. The name and the address are
    kept beside the id: they outlive the account."""
    name = select(User.name).where(User.id == user_id).scalar_subquery() if user_id else None
    address, token = asking_address.get(), asking_token.get()
    via = {"via": token} if token else {}
    session.add(Audit(user_id=user_id, person=name, address=address, action=action, subject=subject, data=data | via))


def lock_first_start(session: Session) -> None:
    """Several web processes that start together make one set-up link."""
    session.execute(text("SELECT pg_advisory_xact_lock(hashtext('studio.setup'))"))
