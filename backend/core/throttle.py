"""Failed attempts to sign in, counted in Postgres: every web process sees them, and a restart forgives nobody."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backend.core.errors import TooMany
from backend.core.models import Failure

WINDOW = timedelta(minutes=5)
AN_ADDRESS, AN_ACCOUNT = 30, 10
"""So many failures within the window; an office behind one address has many people."""
ONE_HOLDER = 64
"""Bits of an IPv6 address that name who holds it: the rest is theirs to choose, billions of them."""


@dataclass(frozen=True)
class Counted:
    """What failures are counted for, and how many are let through."""

    key: str
    limit: int


def plain_address(text: str) -> str:
    """`192.0.2.7` for `::ffff:192.0.2.7`, as a socket that listens on `::` tells of whoever comes by IPv4: one person's
    address is one word, and not everybody's is of one /64."""
    return str(_read(text) or text)


def address(text: str) -> Counted:
    found = _read(text)
    holder = ipaddress.ip_network((found, ONE_HOLDER), strict=False) if found and found.version == 6 else found
    return _counted("address", str(holder or text), AN_ADDRESS)


def _read(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None where somebody comes by something else, such as a unix socket."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def account(name: str, apart: str = "") -> Counted:
    """`apart` is what its owner alone is likely to have, as an address from which they have signed in before: failures
    there count for themselves, so that no stranger who fails on purpose locks anybody out of their own account."""
    return _counted("account", f"{name.strip().lower()}\0{apart}", AN_ACCOUNT)


def _counted(kind: str, name: str, limit: int) -> Counted:
    return Counted(hashlib.sha256(f"{kind} {name}".encode("utf-8", "surrogatepass")).hexdigest(), limit)


def attempt(session: Session, *counted: Counted) -> None:
    """Count an attempt as a failure before it is known, so that many at once are not all let through; whoever succeeds
    is forgiven. Raises `TooMany` while there were too many failures, and counts nothing then."""
    for each in sorted(counted, key=lambda each: each.key):  # in one order, so that no two wait for each other
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(each.key, 0))))
    for each in counted:
        _check(session, each)
    session.execute(delete(Failure).where(Failure.at < func.clock_timestamp() - WINDOW))
    session.add_all(Failure(key=each.key) for each in counted)


def _check(session: Session, counted: Counted) -> None:
    """The seconds to wait are the database's own: no two machines need the same clock."""
    left = func.extract("epoch", Failure.at + WINDOW - func.clock_timestamp())
    newest = select(left).where(Failure.key == counted.key, left > 0).order_by(Failure.at.desc())
    found = session.scalars(newest.limit(counted.limit)).all()
    if len(found) >= counted.limit:
        seconds = int(found[-1]) + 1
        raise TooMany("Too many failed attempts.", hint=f"Try again in {seconds} seconds.", retry_after_seconds=seconds)


def forgive(session: Session, counted: Counted) -> None:
    """Take the newest failure back."""
    newest = select(Failure.id).where(Failure.key == counted.key).order_by(Failure.at.desc()).limit(1)
    session.execute(delete(Failure).where(Failure.id == newest.scalar_subquery()))


def forget(session: Session, counted: Counted) -> None:
    session.execute(delete(Failure).where(Failure.key == counted.key))
